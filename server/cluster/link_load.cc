#include "server/cluster/link_load.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

namespace penstock::server {

namespace {

constexpr uint64_t kTenGigabit = 10'000'000'000 / 8;

uint64_t FastestLink() {
  int64_t megabits = 0;
  std::error_code none;
  for (const auto& interface : std::filesystem::directory_iterator("/sys/class/net", none)) {
    std::string state;
    int64_t speed = 0;
    std::ifstream(interface.path() / "operstate") >> state;
    if (state == "up" && std::ifstream(interface.path() / "speed") >> speed) megabits = std::max(megabits, speed);
  }
  return megabits > 0 ? static_cast<uint64_t>(megabits) * 1'000'000 / 8 : kTenGigabit;
}

}  // namespace

LinkLoad::LinkLoad(uint64_t bytes_per_second) : bytes_per_second_(bytes_per_second != 0 ? bytes_per_second : FastestLink()) {}

double LinkLoad::Busy(uint64_t sent_bytes, uint64_t received_bytes, absl::Time now) {
  const double seconds = absl::ToDoubleSeconds(now - at_);
  const uint64_t moved = std::max(sent_bytes - std::min(sent_, sent_bytes), received_bytes - std::min(received_, received_bytes));
  const bool first = at_ == absl::InfinitePast();
  sent_ = sent_bytes;
  received_ = received_bytes;
  at_ = now;
  if (first || seconds <= 0) return 0;
  return std::min(1.0, static_cast<double>(moved) / seconds / static_cast<double>(bytes_per_second_));
}

}  // namespace penstock::server
