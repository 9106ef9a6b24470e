// One schedule: a cluster under load and faults, then peace, then the checks. Everything follows from the seed.
#pragma once

#include <cstdint>
#include <string>

namespace penstock::server::directory {

struct ScheduleResult {
  std::string failure;  // empty: everything held
  uint64_t events = 0;
  size_t calls = 0;
  size_t histories_lost = 0;
  size_t undecided = 0;  // names whose history was too wide for the checker
};

ScheduleResult RunSchedule(uint64_t seed, bool verbose = false);

}  // namespace penstock::server::directory
