// What does a put cost from C++, against a copy of the same bytes into warm shared memory?
//
//   put_bench --address=DIR      (asked by bench/runner/suites/put.py and seeds.py)
#include <penstock/client.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "bench/workers/worker.h"
#include "proto/strcat.h"
#include "transport/copy/copy.h"
#include "transport/segment/mapping.h"
#include "transport/segment/memfd.h"

namespace penstock::bench {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr int kMany = 1000;

// What is put, and as much warm shared memory of our own to copy it to: the ceiling.
class Buffers {
 public:
  static absl::StatusOr<Buffers> Create() {
    absl::StatusOr<Memfd> memfd = CreateMemfd({.name = "bench-ceiling", .size = kGiB});
    if (!memfd.ok()) return memfd.status();
    absl::StatusOr<Mapping> map = Mapping::MapWritable(memfd->fd(), kGiB, memfd->page_kind());
    if (!map.ok()) return map.status();
    if (absl::Status s = map->Populate(true, 0, kGiB); !s.ok()) return s;
    return Buffers(*std::move(map));
  }

  const char* source() const { return source_.data(); }
  char* warm() const { return warm_.data(); }

 private:
  explicit Buffers(Mapping warm) : source_(kGiB, 1), warm_(std::move(warm)) {}

  std::vector<char> source_;
  Mapping warm_;
};

ConstTensorRef Bytes(const char* data, uint64_t bytes) {
  return {data, DType::kU8, Shape({static_cast<int64_t>(bytes)}), {}};
}

void AddSmall(Client& client, const Buffers& buffers, Worker& worker) {
  worker.Add("put 4 KiB", [&] {
    return NanosecondsEach(
        [&](uint64_t) {
          return client.Put("bench/put/4k", Bytes(buffers.source(), 4096)).status();
        },
        0.1, 16);
  });
  worker.Add("put 4 KiB, new names", [&]() -> absl::StatusOr<double> {
    absl::StatusOr<double> each = NanosecondsEach(
        [&](uint64_t i) {
          return client.Put(StrCat("bench/new/", i), Bytes(buffers.source(), 4096)).status();
        },
        0.1, 16);
    absl::StatusOr<uint64_t> gone = client.DeletePrefix("bench/new/");
    if (!gone.ok()) return gone.status();
    return each;
  });
  worker.Add("copy 4 KiB", [&] {
    return NanosecondsEach([&](uint64_t i) {
      CopyBytes(buffers.warm() + (i % 1024) * 4096, buffers.source(), 4096);
      return absl::OkStatus();
    });
  });
}

void AddMany(Client& client, const Buffers& buffers, Worker& worker, uint64_t bytes) {
  auto names = std::make_shared<std::vector<std::string>>();
  for (int i = 0; i < kMany; ++i) names->push_back(StrCat("bench/many/", bytes, "/", i));
  worker.Add(StrCat("put_many ", bytes), [&client, &buffers, names, bytes] {
    std::vector<PutRequest> requests;
    for (const std::string& name : *names)
      requests.push_back({name, Bytes(buffers.source(), bytes)});
    return NanosecondsEach(
        [&](uint64_t) -> absl::Status {
          for (const absl::StatusOr<TensorInfo>& result : client.PutMany(requests)) {
            if (!result.ok()) return result.status();
          }
          return absl::OkStatus();
        },
        0.05, 1);
  });
  worker.Add(StrCat("copy many ", bytes), [&buffers, bytes] {
    return NanosecondsEach(
        [&](uint64_t) {
          for (int i = 0; i < kMany; ++i) {
            CopyBytes(buffers.warm() + static_cast<uint64_t>(i) * bytes, buffers.source(), bytes);
          }
          return absl::OkStatus();
        },
        0.02, 1);
  });
}

absl::Status CreateFillPublish(Client& client, const char* source) {
  absl::StatusOr<Draft> draft =
      client.Create("bench/put/1g", DType::kU8, Shape({static_cast<int64_t>(kGiB)}));
  if (!draft.ok()) return draft.status();
  if (source != nullptr) CopyBytes(draft->data(), source, kGiB);
  return std::move(*draft).Publish().status();
}

void AddLarge(Client& client, const Buffers& buffers, Worker& worker) {
  worker.Add("put 1 GiB", [&] {
    return SecondsOnce(
        [&] { return client.Put("bench/put/1g", Bytes(buffers.source(), kGiB)).status(); });
  });
  worker.Add("create, fill, publish 1 GiB", [&] {
    return SecondsOnce([&] { return CreateFillPublish(client, buffers.source()); });
  });
  worker.Add("create, publish 1 GiB",
             [&] { return SecondsOnce([&] { return CreateFillPublish(client, nullptr); }); });
  worker.Add("copy 1 GiB", [&] {
    return SecondsOnce([&] {
      CopyBytes(buffers.warm(), buffers.source(), kGiB);
      return absl::OkStatus();
    });
  });
  worker.Add("get 1 GiB", [&] {
    return NanosecondsEach([&](uint64_t) { return client.Get("bench/put/1g").status(); });
  });
}

int Run(int argc, char** argv) {
  absl::StatusOr<std::unique_ptr<Client>> client =
      Client::Connect({.address = FlagValue(argc, argv, "address"), .timeout = absl::Seconds(60)});
  absl::StatusOr<Buffers> buffers = Buffers::Create();
  if (!client.ok() || !buffers.ok()) {
    std::cerr << "put_bench: " << client.status() << ", " << buffers.status() << "\n";
    return 1;
  }
  Worker worker;
  AddSmall(**client, *buffers, worker);
  AddMany(**client, *buffers, worker, 4096);
  AddMany(**client, *buffers, worker, 64);
  AddLarge(**client, *buffers, worker);
  return worker.Serve();
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Run(argc, argv); }
