#include "server/remote/remote_jobs.h"

#include <algorithm>

#include "transport/monotonic.h"

namespace penstock::server {

uint64_t RemoteJobs::Start(Job job, std::string order) {
  const uint64_t key = NewKey();
  {
    std::lock_guard lock(mutex_);
    if (stopping_) {
      results_[key] = {MonotonicNow(), {.status = absl::UnavailableError("the node is stopping")}};
      return key;
    }
  }
  std::vector<std::string> orders;
  if (!order.empty()) orders.push_back(std::move(order));
  Run([this, key, job = std::move(job)] { Finish(key, job()); }, std::move(orders));
  return key;
}

void RemoteJobs::Run(std::function<void()> work, std::vector<std::string> orders) {
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  for (const std::string& order : orders) ++pending_[order];
  queue_.push_back({std::move(work), std::move(orders)});
  unfinished_.fetch_add(1);
  if (idle_ < queue_.size() && threads_.size() < kMaxThreads) threads_.emplace_back([this] { Work(); });
  changed_.notify_one();
}

void RemoteJobs::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    auto ready = queue_.end();
    changed_.wait(lock, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || (ready = NextReady()) != queue_.end(); });
    --idle_;
    if (stopping_) return;
    Queued next = std::move(*ready);
    queue_.erase(ready);
    busy_.insert(next.orders.begin(), next.orders.end());
    lock.unlock();
    next.work();
    next.work = nullptr;  // what it holds goes without the lock
    lock.lock();
    for (const std::string& order : next.orders) {
      busy_.erase(order);
      if (auto it = pending_.find(order); --it->second == 0) pending_.erase(it);
    }
    unfinished_.fetch_sub(1);
    if (!next.orders.empty()) changed_.notify_all();
  }
}

void RemoteJobs::Finish(uint64_t key, Result result) {
  {
    std::lock_guard lock(mutex_);
    const absl::Time now = MonotonicNow();
    if (results_.size() >= sweep_at_) {
      absl::erase_if(results_, [now](const auto& entry) { return entry.second.since < now - kKeepResults; });
      sweep_at_ = std::max<size_t>(1024, 2 * results_.size());
    }
    results_[key] = {now, std::move(result)};
    if (awaiting_ > 0) finished_.notify_all();
  }
  if (on_done_) on_done_(key);
}

// The first one that shares no order with what is under way, or with what waits before it.
std::deque<RemoteJobs::Queued>::iterator RemoteJobs::NextReady() {
  absl::flat_hash_set<std::string> waiting;
  for (auto it = queue_.begin(); it != queue_.end(); ++it) {
    const bool ready = std::none_of(it->orders.begin(), it->orders.end(), [&](const std::string& order)
                                        ABSL_NO_THREAD_SAFETY_ANALYSIS { return busy_.contains(order) || waiting.contains(order); });
    if (ready) return it;
    waiting.insert(it->orders.begin(), it->orders.end());
  }
  return queue_.end();
}

bool RemoteJobs::Pending(const std::string& order) {
  std::lock_guard lock(mutex_);
  return pending_.contains(order);
}

std::optional<RemoteJobs::Result> RemoteJobs::Await(uint64_t key, absl::Time deadline) {
  {
    std::unique_lock lock(mutex_);
    ++awaiting_;
    const auto patience = absl::ToChronoNanoseconds(std::max(deadline - MonotonicNow(), absl::ZeroDuration()));
    finished_.wait_for(lock, patience, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return results_.contains(key); });
    --awaiting_;
  }
  return Take(key);
}

std::optional<RemoteJobs::Result> RemoteJobs::Take(uint64_t key) {
  std::lock_guard lock(mutex_);
  auto it = results_.find(key);
  if (it == results_.end()) return std::nullopt;
  Result result = std::move(it->second.result);
  results_.erase(it);
  return result;
}

void RemoteJobs::Stop() {
  std::vector<std::thread> threads;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  changed_.notify_all();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace penstock::server
