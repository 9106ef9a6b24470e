// RemoteJobs: work that waits for other nodes, on threads of its own.
//
// Start returns a key; OnDone is called with it when the job is done, and Take then gives the result. Work that gives many
// results takes a key for each and tells them one by one.
//
// Threading:  any thread; jobs run on up to kMaxThreads threads, started when needed.
// Ownership:  what a job uses must outlive Stop, which waits for the jobs that run and drops the others.
// Errors:     a job's own; UNAVAILABLE when it was started after Stop (Start only).
// Limits:     results that nobody takes are dropped after kKeepResults.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/store/store.h"

namespace penstock::server {

class RemoteJobs {
 public:
  static constexpr size_t kMaxThreads = 16;
  static constexpr absl::Duration kKeepResults = absl::Seconds(60);

  struct Result {
    absl::Status status;
    Published published{};
    std::string response{};  // a serialized message, or an address
  };
  using Job = std::function<Result()>;

  ~RemoteJobs() { Stop(); }

  // Jobs of one `order` are done one at a time, in the order in which they were started; empty: at any time.
  uint64_t Start(Job job, std::string order = {});
  // Work for results whose keys were taken before: all are told by Finish, on any thread.
  void Run(std::function<void()> work, std::vector<std::string> orders = {});
  uint64_t NewKey() { return next_.fetch_add(1) * 0x9E3779B97F4A7C15; }  // spread out: it stands beside hashes of names
  void Finish(uint64_t key, Result result);
  std::optional<Result> Take(uint64_t key);
  std::optional<Result> Await(uint64_t key, absl::Time deadline);  // the same, and waits; MonotonicNow
  bool Pending(const std::string& order);  // whether a job of this order is not done yet
  bool idle() const { return unfinished_.load() == 0; }
  // Called on the thread of Finish. To be set before the first Start.
  void OnDone(std::function<void(uint64_t key)> callback) { on_done_ = std::move(callback); }
  void Stop();  // idempotent

 private:
  struct Queued {
    std::function<void()> work;
    std::vector<std::string> orders;
  };
  struct Kept {
    absl::Time since;
    Result result;
  };
  void Work();
  std::deque<Queued>::iterator NextReady() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::function<void(uint64_t)> on_done_;
  std::atomic<uint64_t> next_{1};
  std::atomic<size_t> unfinished_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Queued> queue_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> busy_ ABSL_GUARDED_BY(mutex_);  // orders of which a job runs
  absl::flat_hash_map<std::string, int> pending_ ABSL_GUARDED_BY(mutex_);  // how many jobs of an order run or wait
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, Kept> results_ ABSL_GUARDED_BY(mutex_);
  std::condition_variable finished_;
  int awaiting_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t sweep_at_ ABSL_GUARDED_BY(mutex_) = 1024;
};

}  // namespace penstock::server
