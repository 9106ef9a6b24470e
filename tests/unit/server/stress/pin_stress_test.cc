// Readers that check every byte against writers that overwrite, delete and evict: the pin protocol under load, with the
// real client library and the real server in one process (so that ThreadSanitizer sees both).
//
// PENSTOCK_STRESS_PINS sets the number of pins (default 10^6, a tenth of it under ThreadSanitizer; tests/nightly runs 10^8). PENSTOCK_STRESS_SEED repeats a run.
#include <gtest/gtest.h>
#include <penstock/client.h>
#include <stdlib.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "tests/unit/server/store/serving_fixture.h"

namespace penstock::server {
namespace {

constexpr int kNames = 64;
#if defined(__SANITIZE_THREAD__)
constexpr uint64_t kDefaultPins = 100'000;  // seven times as slow
#else
constexpr uint64_t kDefaultPins = 1'000'000;
#endif

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  return text == nullptr ? otherwise : strtoull(text, nullptr, 10);
}

std::string NameOf(uint64_t i) { return "stress/" + std::to_string(i % kNames); }

// Every word of a tensor says which put made it, so a view that changed or was reused shows it.
std::vector<uint64_t> Words(uint64_t stamp, uint64_t count) {
  std::vector<uint64_t> words(count);
  for (uint64_t i = 0; i < count; ++i) words[i] = stamp * 0x9E3779B97F4A7C15ull + i;
  return words;
}

bool Consistent(absl::Span<const uint64_t> words) {
  for (size_t i = 1; i < words.size(); ++i) {
    if (words[i] != words[0] + i) return false;
  }
  return true;
}

class PinStressTest : public ServingTest {
 protected:
  std::unique_ptr<Client> NewClient() { return Client::Connect({.address = directory()}).value(); }

  // Reads until `pins` gets have succeeded; holds up to 16 views at a time and checks each when it lets go.
  void Read(uint64_t seed, uint64_t pins, std::atomic<uint64_t>* wrong) {
    std::mt19937_64 random(seed);
    std::unique_ptr<Client> client = NewClient();
    std::vector<TensorView> held(16);
    for (uint64_t done = 0; done < pins;) {
      absl::StatusOr<TensorView> view = client->Get(NameOf(random()));
      if (!view.ok()) continue;  // deleted or evicted just now
      ++done;
      if (!Consistent(view->As<uint64_t>().value())) wrong->fetch_add(1);
      TensorView& place = held[random() % held.size()];
      if (place.valid() && !Consistent(place.As<uint64_t>().value())) wrong->fetch_add(1);
      // Half of those kept are a second view whose original goes at once: the pin must stay.
      place = random() % 2 == 0 ? *std::move(view) : view->Clone().value();
    }
  }

  void Write(uint64_t seed, const std::atomic<bool>* stop, std::atomic<uint64_t>* failures) {
    std::mt19937_64 random(seed);
    std::unique_ptr<Client> client = NewClient();
    for (uint64_t stamp = seed; !stop->load(); ++stamp) {
      const std::string name = NameOf(random());
      if (random() % 8 == 0) {
        if (!client->Delete(name).ok()) failures->fetch_add(1);
        continue;
      }
      // Small ones are staged into arenas; one in 16 is a draft in an extent; some are evictable.
      const bool extent = random() % 16 == 0;
      const std::vector<uint64_t> words = Words(stamp, extent ? 40000 : 1 + random() % 600);
      const Shape shape({static_cast<int64_t>(words.size())});
      const PutOptions options{.keep = random() % 2 == 0};
      absl::Status status;
      if (extent) {
        absl::StatusOr<Draft> draft = client->Create(name, DType::kU64, shape, options);
        status = draft.status();
        if (status.ok()) {
          std::memcpy(draft->data(), words.data(), 8 * words.size());
          status = (*std::move(draft)).Publish().status();
        }
      } else {
        status = client->Put(name, {.data = words.data(), .dtype = DType::kU64, .shape = shape, .strides = {}}, options).status();
      }
      if (!status.ok()) failures->fetch_add(1);
    }
  }
};

TEST_F(PinStressTest, NoViewEverShowsAnotherPutsBytes) {
  const uint64_t pins = FromEnvironment("PENSTOCK_STRESS_PINS", kDefaultPins);
  const uint64_t seed = FromEnvironment("PENSTOCK_STRESS_SEED", std::random_device{}());
  SCOPED_TRACE("PENSTOCK_STRESS_SEED=" + std::to_string(seed));
  for (uint64_t i = 0; i < kNames; ++i) {
    const std::vector<uint64_t> words = Words(i, 10);
    ASSERT_TRUE(NewClient()->Put(NameOf(i), {.data = words.data(), .dtype = DType::kU64, .shape = Shape({10}), .strides = {}}).ok());
  }
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> wrong{0};
  std::atomic<uint64_t> failures{0};
  std::vector<std::thread> writers;
  std::vector<std::thread> readers;
  for (uint64_t i = 0; i < 2; ++i) writers.emplace_back([&, i] { Write(seed + i, &stop, &failures); });
  for (uint64_t i = 0; i < 2; ++i) readers.emplace_back([&, i] { Read(seed + 100 + i, pins / 2, &wrong); });
  for (std::thread& reader : readers) reader.join();
  stop.store(true);
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(failures.load(), 0);
  ASSERT_TRUE(DeletePrefix("").ok());
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while ((Df().sessions() != 0 || Df().block_bytes() != 0) && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(Df().pins(), 0);
  EXPECT_EQ(Df().retired(), 0);
  EXPECT_EQ(Df().block_bytes(), 0);
}

}  // namespace
}  // namespace penstock::server
