#include "transport/stream/followed_steps.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace penstock::stream {

FollowedSteps::~FollowedSteps() {
  for (auto& [grant, followed] : followed_) followed.source->Unclaim();
}

absl::Status FollowedSteps::Await(const LaneToken& token, GrantTable* grants, uint64_t request_id, uint64_t grant, uint64_t after) {
  if (open_count_ >= kMaxOpen) return absl::ResourceExhaustedError(absl::StrCat("steps: ", open_count_, " are awaited on this connection, the most that may be"));
  auto it = followed_.find(grant);
  if (it == followed_.end()) {
    absl::StatusOr<std::shared_ptr<StepSource>> source = grants->Follow(token, grant);
    if (!source.ok()) return source.status();
    if (!(*source)->Claim()) return absl::FailedPreconditionError(absl::StrCat("grant ", grant, ": another connection follows this channel with it"));
    it = followed_.emplace(grant, Followed{.source = *std::move(source), .seen = 0, .open = {}, .torn = 0}).first;
  }
  it->second.seen = std::max(it->second.seen, after);
  it->second.open.push_back(request_id);
  ++open_count_;
  return absl::OkStatus();
}

StepSource::Next FollowedSteps::NextOf(const Followed& followed) {
  if (followed.open.empty() || followed.torn >= kMaxTorn) return {};
  return followed.source->After(followed.seen);
}

bool FollowedSteps::AnyDue() const {
  return std::any_of(followed_.begin(), followed_.end(), [](const auto& entry) { return NextOf(entry.second).state != StepSource::State::kNothing; });
}

void FollowedSteps::Look() {
  for (auto& [grant, followed] : followed_) followed.torn = 0;
}

std::optional<FollowedSteps::Due> FollowedSteps::TakeDue() {
  auto it = followed_.upper_bound(last_grant_);
  for (size_t i = 0; i < followed_.size(); ++i, ++it) {
    if (it == followed_.end()) it = followed_.begin();
    Followed& followed = it->second;
    const StepSource::Next next = NextOf(followed);
    if (next.state == StepSource::State::kNothing) continue;
    last_grant_ = it->first;
    Due due{.request_id = followed.open.front(), .grant = it->first, .next = next, .source = followed.source};
    followed.open.pop_front();
    --open_count_;
    if (next.state != StepSource::State::kStep && followed.open.empty()) {  // nothing more will come of it
      followed.source->Unclaim();
      followed_.erase(it);
    }
    return due;
  }
  return std::nullopt;
}

void FollowedSteps::Sent(const Due& due) {
  const auto it = followed_.find(due.grant);
  if (it == followed_.end()) return;
  it->second.seen = std::max(it->second.seen, due.next.seq);
  it->second.torn = 0;
}

void FollowedSteps::Torn(const Due& due) {
  const auto it = followed_.find(due.grant);
  if (it == followed_.end()) return;
  it->second.open.push_front(due.request_id);
  ++open_count_;
  ++it->second.torn;
}

}  // namespace penstock::stream
