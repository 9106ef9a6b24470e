// The simulated world's clock and its queue of what is going to happen.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "server/directory/ids.h"
#include "tests/unit/server/directory/sim_random.h"

namespace penstock::server::directory {

class SimWorld {
 public:
  explicit SimWorld(uint64_t seed) : random(seed) {}

  Time now() const { return now_; }
  void After(Time delay, std::function<void()> what) { queue_.push({now_ + delay, ++last_, std::move(what)}); }
  // Runs what is due until `until`.
  void RunUntil(Time until) {
    while (!queue_.empty() && queue_.top().at <= until) {
      Event event = std::move(const_cast<Event&>(queue_.top()));
      queue_.pop();
      now_ = event.at;
      ++events_;
      event.what();
    }
    now_ = until;
  }
  uint64_t events() const { return events_; }

  SimRandom random;

 private:
  struct Event {
    Time at;
    uint64_t order;
    std::function<void()> what;
    bool operator<(const Event& other) const {
      return at != other.at ? at > other.at : order > other.order;  // the earliest on top
    }
  };
  Time now_ = 0;
  uint64_t last_ = 0;
  uint64_t events_ = 0;
  std::priority_queue<Event> queue_;
};

}  // namespace penstock::server::directory
