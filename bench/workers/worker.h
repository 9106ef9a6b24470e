// Worker: a program that measures one thing each time it is asked.
//
//   Worker worker;
//   worker.Add("get hot", [&]() -> absl::StatusOr<double> { return NanosecondsEach(...); });
//   return worker.Serve();
//
// bench/runner asks for a measurement by name, one a line on stdin, and gets one line of JSON back:
// {"value": 51.2}, or {"error": "why"}. It asks for the thing and for its ceiling in turn, round by
// round, so that both see the same machine: a worker only measures, it repeats and judges nothing.
//
// Threading:  one thread
// Ownership:  measurements borrow what they capture; it must outlive Serve()
// Errors:     a measurement's Status is told to the runner; the worker goes on
// Limits:     names are one line; Serve returns when stdin ends
#ifndef PENSTOCK_BENCH_WORKERS_WORKER_H_
#define PENSTOCK_BENCH_WORKERS_WORKER_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace penstock::bench {

class Worker {
 public:
  using Measurement = std::function<absl::StatusOr<double>()>;

  void Add(std::string name, Measurement measurement) {
    measurements_[std::move(name)] = std::move(measurement);
  }
  int Serve();

 private:
  std::map<std::string, Measurement> measurements_;
};

inline double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What a call of `operation` costs in nanoseconds: the median of short batches, so that one which
// the scheduler broke off does not count. `operation` takes the number of its call and returns a
// Status.
template <class Operation>
absl::StatusOr<double> NanosecondsEach(Operation&& operation, double seconds = 0.04,
                                       uint64_t batch = 256) {
  std::vector<double> batches;
  uint64_t calls = 0;
  const auto begin = std::chrono::steady_clock::now();
  do {
    const auto start = std::chrono::steady_clock::now();
    for (const uint64_t end = calls + batch; calls < end; ++calls) {
      absl::Status status = operation(calls);
      if (!status.ok()) [[unlikely]]
        return status;
    }
    batches.push_back(SecondsSince(start));
  } while (SecondsSince(begin) < seconds);
  const auto middle = batches.begin() + static_cast<ptrdiff_t>(batches.size() / 2);
  std::nth_element(batches.begin(), middle, batches.end());
  return *middle * 1e9 / static_cast<double>(batch);
}

// One call of `operation` in seconds.
template <class Operation>
absl::StatusOr<double> SecondsOnce(Operation&& operation) {
  const auto start = std::chrono::steady_clock::now();
  absl::Status status = operation();
  if (!status.ok()) return status;
  return SecondsSince(start);
}

// The value after `--name=`; empty if there is none.
std::string FlagValue(int argc, char** argv, const std::string& name);

// Keeps the compiler from dropping what was computed.
template <class T>
inline void Keep(const T& value) {
  asm volatile("" : : "g"(&value) : "memory");
}

}  // namespace penstock::bench

#endif  // PENSTOCK_BENCH_WORKERS_WORKER_H_
