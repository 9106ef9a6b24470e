// Does a store of very many names stay quick, and does listing it stall those who get?
//
//   names_bench --address=DIR      (asked by bench/runner/suites/names.py)
//
// "fill N" puts tensors 0..N-1 and answers its seconds.
#include <penstock/client.h>

#include <algorithm>
#include <atomic>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/workers/names.h"
#include "bench/workers/worker.h"
#include "proto/strcat.h"

namespace penstock::bench {
namespace {

constexpr uint64_t kCounts[] = {10'000, 100'000, 1'000'000};

std::vector<std::string> RandomNames(uint64_t count) {
  std::mt19937_64 random(count);
  std::vector<std::string> names;
  for (int i = 0; i < 1 << 16; ++i) names.push_back(NumberedName(random() % count));
  return names;
}

// Every name under the prefix, page by page.
absl::StatusOr<uint64_t> ListAll(Client& client) {
  uint64_t listed = 0;
  std::string after;
  for (;;) {
    absl::StatusOr<ListPage> page = client.List(kNumberedPrefix, after, 1000);
    if (!page.ok()) return page.status();
    listed += page->items.size();
    if (!page->more || page->items.empty()) return listed;
    after = page->items.back().name;
  }
}

// Nanoseconds of single gets for `seconds`, sorted.
absl::StatusOr<std::vector<uint32_t>> TimeGets(Client& client, double seconds) {
  const std::string name = NumberedName(7);
  std::vector<uint32_t> samples;
  samples.reserve(16 << 20);
  const auto start = std::chrono::steady_clock::now();
  auto last = start;
  while (std::chrono::duration<double>(last - start).count() < seconds &&
         samples.size() < samples.capacity()) {
    if (absl::Status s = client.Get(name).status(); !s.ok()) return s;
    const auto now = std::chrono::steady_clock::now();
    samples.push_back(static_cast<uint32_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(now - last).count()));
    last = now;
  }
  std::sort(samples.begin(), samples.end());
  return samples;
}

// The get's time that all but `rest` of the gets stay below, in nanoseconds.
absl::StatusOr<double> TailOfGets(Client& client, double rest) {
  absl::StatusOr<std::vector<uint32_t>> samples = TimeGets(client, 0.5);
  if (!samples.ok()) return samples.status();
  const auto last = static_cast<double>(samples->size() - 1);
  return (*samples)[static_cast<size_t>(last * (1 - rest))];
}

absl::StatusOr<double> TailOfGetsWhileListing(Client& client, Client& lister, double rest) {
  std::atomic<bool> stop{false};
  absl::Status listing;
  std::thread thread([&] {
    while (!stop.load() && listing.ok()) listing = ListAll(lister).status();
  });
  absl::StatusOr<double> tail = TailOfGets(client, rest);
  stop.store(true);
  thread.join();
  if (!listing.ok()) return listing;
  return tail;
}

void AddTails(Client& client, Client& lister, Worker& worker) {
  struct Tail {
    const char* name;
    double rest;
  };
  for (const Tail& tail : {Tail{"99.9 %", 0.001}, Tail{"worst", 0.0}}) {
    worker.Add(StrCat(tail.name, " get"),
               [&client, rest = tail.rest] { return TailOfGets(client, rest); });
    worker.Add(StrCat(tail.name, " get while listing"), [&client, &lister, rest = tail.rest] {
      return TailOfGetsWhileListing(client, lister, rest);
    });
  }
}

void AddCounts(Client& client, Worker& worker) {
  for (const uint64_t count : kCounts) {
    worker.Add(StrCat("fill ", count), [&client, count] {
      return SecondsOnce([&] { return PutNumberedNames(client, count); });
    });
    worker.Add(StrCat("get among ", count), [&client, names = RandomNames(count)] {
      return NanosecondsEach([&](uint64_t i) { return client.Get(names[i & 0xffff]).status(); });
    });
  }
  worker.Add("list", [&client]() -> absl::StatusOr<double> {
    const auto start = std::chrono::steady_clock::now();
    absl::StatusOr<uint64_t> listed = ListAll(client);
    if (!listed.ok()) return listed.status();
    return SecondsSince(start) * 1e9 / static_cast<double>(std::max<uint64_t>(*listed, 1));
  });
}

int Run(int argc, char** argv) {
  const ClientOptions options{.address = FlagValue(argc, argv, "address"),
                              .timeout = absl::Seconds(60)};
  absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect(options);
  absl::StatusOr<std::unique_ptr<Client>> lister = Client::Connect(options);
  if (!client.ok() || !lister.ok()) {
    std::cerr << "names_bench: " << client.status() << "\n";
    return 1;
  }
  Worker worker;
  AddCounts(**client, worker);
  AddTails(**client, **lister, worker);
  return worker.Serve();
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Run(argc, argv); }
