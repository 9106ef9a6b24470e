// FollowedSteps: the channels that one connection of a StreamServer follows, and which answer is due.
//
//   followed.Await(token, grants, request_id, grant, after);   // answered later
//   while (auto due = followed.TakeDue()) ...                  // a step to be copied and sent, or an end
//
// Costs a look at the channel's newest step, so it can be asked after every step of whatever channel.
//
// Threading:  one thread at a time.
// Ownership:  holds the sources until they are over for it, and has them to itself (StepSource::Claim).
// Errors:     Await: RESOURCE_EXHAUSTED too many requests; what the grant table says.
// Limits:     kMaxOpen requests; no memory but a place for each.
#ifndef PENSTOCK_TRANSPORT_STREAM_FOLLOWED_STEPS_H_
#define PENSTOCK_TRANSPORT_STREAM_FOLLOWED_STEPS_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "transport/lane/lane.h"

namespace penstock::stream {

class FollowedSteps {
 public:
  static constexpr size_t kMaxOpen = 16384;
  static constexpr int kMaxTorn = 3;  // in a row; then it is looked at again after the next step

  FollowedSteps() = default;
  ~FollowedSteps();
  FollowedSteps(const FollowedSteps&) = delete;
  FollowedSteps& operator=(const FollowedSteps&) = delete;

  absl::Status Await(const LaneToken& token, GrantTable* grants, uint64_t request_id, uint64_t grant, uint64_t after);
  bool empty() const { return followed_.empty(); }
  bool AnyDue() const;
  // Some channel has a new step, or time has passed: those that were given up for the moment are looked at again.
  void Look();

  struct Due {
    uint64_t request_id = 0;
    uint64_t grant = 0;
    StepSource::Next next;               // not kNothing
    std::shared_ptr<StepSource> source;  // of a step
  };
  // The channels take turns.
  std::optional<Due> TakeDue();
  void Sent(const Due& due);  // whole
  void Torn(const Due& due);  // it is due again

 private:
  struct Followed {
    std::shared_ptr<StepSource> source;
    uint64_t seen = 0;
    std::deque<uint64_t> open;  // requests
    int torn = 0;
  };
  static StepSource::Next NextOf(const Followed& followed);

  std::map<uint64_t, Followed> followed_;  // by grant; each has an open request, or had one lately
  size_t open_count_ = 0;
  uint64_t last_grant_ = 0;  // whose turn it was
};

}  // namespace penstock::stream

#endif  // PENSTOCK_TRANSPORT_STREAM_FOLLOWED_STEPS_H_
