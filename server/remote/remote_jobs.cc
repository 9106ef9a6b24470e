#include "server/remote/remote_jobs.h"

#include <algorithm>

#include "transport/monotonic.h"

namespace penstock::server {

uint64_t RemoteJobs::Start(Job job, std::string order) {
  std::lock_guard lock(mutex_);
  // Spread out, for it stands beside hashes of names in the books of those who wait.
  const uint64_t key = next_++ * 0x9E3779B97F4A7C15;
  if (stopping_) {
    results_[key] = {MonotonicNow(), {.status = absl::UnavailableError("the node is stopping")}};
    return key;
  }
  queue_.push_back({key, std::move(job), std::move(order)});
  unfinished_.fetch_add(1);
  if (idle_ < queue_.size() && threads_.size() < kMaxThreads) threads_.emplace_back([this] { Work(); });
  changed_.notify_one();
  return key;
}

void RemoteJobs::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    auto ready = queue_.end();
    changed_.wait(lock, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || (ready = NextReady()) != queue_.end(); });
    --idle_;
    if (stopping_) return;
    auto [key, job, order] = std::move(*ready);
    queue_.erase(ready);
    if (!order.empty()) busy_.insert(order);
    lock.unlock();
    Result result = job();
    lock.lock();
    busy_.erase(order);
    unfinished_.fetch_sub(1);
    const absl::Time now = MonotonicNow();
    absl::erase_if(results_, [now](const auto& entry) { return entry.second.since < now - kKeepResults; });
    results_[key] = {now, std::move(result)};
    lock.unlock();
    if (on_done_) on_done_(key);
    lock.lock();
  }
}

std::deque<RemoteJobs::Queued>::iterator RemoteJobs::NextReady() {
  return std::find_if(queue_.begin(), queue_.end(), [this](const Queued& queued) ABSL_NO_THREAD_SAFETY_ANALYSIS { return !busy_.contains(queued.order); });
}

bool RemoteJobs::Pending(const std::string& order) {
  std::lock_guard lock(mutex_);
  return busy_.contains(order) || std::any_of(queue_.begin(), queue_.end(), [&](const Queued& queued) { return queued.order == order; });
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
