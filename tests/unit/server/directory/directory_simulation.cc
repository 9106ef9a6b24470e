// directory_simulation: runs schedules of the simulated cluster.
//
//   directory_simulation --seed S [--verbose]       one schedule, exactly as it was
//   directory_simulation --schedules N [--first S]  seeds S, S+1, ...
//   directory_simulation --minutes M [--first S]    as many as fit
//   --break RULE      a number of server/directory/rules.h: the schedules are to find that it is broken
//   --keep_going      do not end at the first failure
//
// Ends with 1 and prints the seed when a check fails.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "server/directory/rules.h"
#include "tests/unit/server/directory/simulation.h"

namespace directory = penstock::server::directory;

int main(int argc, char** argv) {
  uint64_t first = 1, schedules = 100, seed = 0;
  double minutes = 0;
  bool verbose = false, keep_going = false;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const bool has_value = i + 1 < argc;
    if (flag == "--verbose") {
      verbose = true;
    } else if (flag == "--keep_going") {
      keep_going = true;
    } else if (flag == "--seed" && has_value) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--first" && has_value) {
      first = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--schedules" && has_value) {
      schedules = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--minutes" && has_value) {
      minutes = std::strtod(argv[++i], nullptr);
    } else if (flag == "--break" && has_value) {
      directory::broken_rule = static_cast<directory::Rule>(std::strtoul(argv[++i], nullptr, 10));
    } else {
      std::fprintf(stderr, "usage: %s [--seed S [--verbose]] [--schedules N | --minutes M] [--first S] [--break RULE]\n",
                   argv[0]);
      return 2;
    }
  }
  if (seed != 0) {
    first = seed;
    schedules = 1;
    minutes = 0;
  }
  const auto start = std::chrono::steady_clock::now();
  uint64_t done = 0, failed = 0, events = 0, calls = 0, lost = 0, undecided = 0;
  auto goes_on = [&] {
    if (minutes <= 0) return done < schedules;
    return std::chrono::steady_clock::now() - start < std::chrono::duration<double>(minutes * 60);
  };
  for (; goes_on(); ++done) {
    const directory::ScheduleResult result = directory::RunSchedule(first + done, verbose);
    events += result.events;
    calls += result.calls;
    lost += result.histories_lost > 0;
    undecided += result.undecided;
    if (result.failure.empty()) continue;
    ++failed;
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(first + done), result.failure.c_str());
    if (!keep_going) {
      ++done;
      break;
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%llu schedules, %llu failed, %llu events, %llu calls, %llu with a lost history, %llu undecided, %.1f s\n",
              static_cast<unsigned long long>(done), static_cast<unsigned long long>(failed),
              static_cast<unsigned long long>(events), static_cast<unsigned long long>(calls),
              static_cast<unsigned long long>(lost), static_cast<unsigned long long>(undecided), seconds);
  return failed != 0;
}
