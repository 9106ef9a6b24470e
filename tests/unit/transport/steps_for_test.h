// StepsForTest: a channel in plain memory; what it says of itself is what the test wants it to.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "transport/lane/lane.h"

namespace penstock {

class StepsForTest final : public StepSource {
 public:
  explicit StepsForTest(uint64_t nbytes) : nbytes_(nbytes), copy_(nbytes + 1) {}

  void Put(uint64_t seq, char fill) {
    std::lock_guard lock(mutex_);
    steps_[seq] = std::vector<char>(nbytes_ + 1, fill);
  }
  void Forget(uint64_t seq) {  // overwritten; its memory stays for who looks at it
    std::lock_guard lock(mutex_);
    lost_[seq] = std::move(steps_[seq]);
    steps_.erase(seq);
  }
  void TearAll(bool torn) {
    std::lock_guard lock(mutex_);
    torn_ = torn;
  }
  void End(State state) {
    std::lock_guard lock(mutex_);
    end_ = state;
  }
  int looks() {
    std::lock_guard lock(mutex_);
    return looks_;
  }
  int copies() {
    std::lock_guard lock(mutex_);
    return copies_;
  }
  bool claimed() {
    std::lock_guard lock(mutex_);
    return claimed_;
  }

  uint64_t nbytes() const override { return nbytes_; }
  bool Claim() override {
    std::lock_guard lock(mutex_);
    return !std::exchange(claimed_, true);
  }
  void Unclaim() override {
    std::lock_guard lock(mutex_);
    claimed_ = false;
  }
  Next After(uint64_t seq) const override {
    std::lock_guard lock(mutex_);
    ++looks_;
    if (end_ == State::kReleased) return {.state = end_};
    const auto it = steps_.upper_bound(seq);
    if (it != steps_.end()) return {.state = State::kStep, .seq = it->first};
    return {.state = end_};
  }
  const char* data(uint64_t seq) const override {
    std::lock_guard lock(mutex_);
    const auto it = steps_.find(seq);
    return it != steps_.end() ? it->second.data() : lost_.at(seq).data();
  }
  bool IsWhole(uint64_t seq) const override {
    std::lock_guard lock(mutex_);
    return !torn_ && steps_.contains(seq);
  }
  char* copy() override {
    std::lock_guard lock(mutex_);
    ++copies_;
    return copy_.data();
  }

 private:
  const uint64_t nbytes_;
  mutable std::mutex mutex_;
  std::map<uint64_t, std::vector<char>> steps_, lost_;
  std::vector<char> copy_;
  State end_ = State::kNothing;
  bool torn_ = false;
  bool claimed_ = false;
  mutable int looks_ = 0;
  int copies_ = 0;
};

}  // namespace penstock
