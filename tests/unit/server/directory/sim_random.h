// The one source of chance of a simulated schedule: the same seed gives the same schedule.
#pragma once

#include <cstdint>

namespace penstock::server::directory {

class SimRandom {
 public:
  explicit SimRandom(uint64_t seed) : state_(seed) {}

  uint64_t Next() {  // splitmix64
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  uint64_t Below(uint64_t limit) { return Next() % limit; }
  int64_t Between(int64_t low, int64_t high) { return low + static_cast<int64_t>(Below(high - low + 1)); }
  bool Chance(double probability) { return double(Next() >> 11) < probability * double(1ULL << 53); }

 private:
  uint64_t state_;
};

}  // namespace penstock::server::directory
