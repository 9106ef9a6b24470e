// ByteCoverage: which bytes of a block have been written.
//
// Threading:  one thread at a time
// Ownership:  numbers only
// Errors:     none
// Limits:     as much memory as there are gaps; kMaxGaps of them, then a written range counts as not written
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace penstock::server {

class ByteCoverage {
 public:
  static constexpr size_t kMaxGaps = 65536;

  void Add(uint64_t begin, uint64_t end) {
    if (begin >= end) return;
    auto it = ranges_.upper_bound(begin);
    if (it != ranges_.begin() && std::prev(it)->second >= begin) --it;
    while (it != ranges_.end() && it->first <= end) {  // these melt into one
      begin = std::min(begin, it->first);
      end = std::max(end, it->second);
      covered_ -= it->second - it->first;
      it = ranges_.erase(it);
    }
    if (ranges_.size() >= kMaxGaps) return;
    ranges_.emplace(begin, end);
    covered_ += end - begin;
  }
  uint64_t bytes() const { return covered_; }
  // How many from `offset` on are written.
  uint64_t From(uint64_t offset) const {
    const auto it = ranges_.upper_bound(offset);
    return it == ranges_.begin() ? 0 : std::max(std::prev(it)->second, offset) - offset;
  }
  // What is not written of [0, total): begin, end.
  std::vector<std::pair<uint64_t, uint64_t>> Missing(uint64_t total) const {
    std::vector<std::pair<uint64_t, uint64_t>> missing;
    uint64_t at = 0;
    for (const auto& [begin, end] : ranges_) {
      if (begin > at) missing.emplace_back(at, begin);
      at = end;
    }
    if (at < total) missing.emplace_back(at, total);
    return missing;
  }

 private:
  std::map<uint64_t, uint64_t> ranges_;  // begin, end; apart from each other
  uint64_t covered_ = 0;
};

}  // namespace penstock::server
