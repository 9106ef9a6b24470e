#include "server/store/use_sampler.h"

#include <array>

#include "transport/monotonic.h"

namespace penstock::server {

namespace {
uint64_t Mix(uint64_t sum, uint64_t word) { return (sum ^ word) * 0x9e3779b97f4a7c15ull + (sum >> 29); }
}  // namespace

void UseSampler::Look(const std::vector<std::shared_ptr<Session>>& sessions, const HeldPins& held, const std::function<void(uint64_t pin)>& used) {
  const absl::Time begin = MonotonicNow();
  pinned_.clear();
  for (const auto& [pin, count] : held) pinned_.insert(pin);
  absl::flat_hash_map<uint64_t, std::vector<uint64_t>> sums;
  for (const std::shared_ptr<Session>& session : sessions) {
    std::vector<uint64_t>& now = sums[session->id];
    const std::vector<uint64_t>& before = sums_[session->id];
    for (const PinChunk& chunk : session->pins()) {
      for (uint32_t group = 0; group < layout::kPinsPerChunk; group += kGroup) {
        std::array<uint64_t, kGroup> words;  // read once: its session may write it meanwhile
        uint64_t sum = 0;
        uint64_t any = 0;
        for (uint32_t i = 0; i < kGroup; ++i) {
          words[i] = chunk.words()[group + i].load(std::memory_order_relaxed);
          any |= words[i];
          sum = Mix(sum, words[i]);
        }
        const bool changed = now.size() >= before.size() ? any != 0 : before[now.size()] != sum;
        now.push_back(sum);
        if (any == 0) continue;
        for (const uint64_t word : words) {
          if (word & 1) pinned_.insert(word);
          if (word != 0 && changed) used(word | 1);
        }
      }
    }
  }
  sums_ = std::move(sums);
  at_ = MonotonicNow();
  took_ = at_ - begin;
}

}  // namespace penstock::server
