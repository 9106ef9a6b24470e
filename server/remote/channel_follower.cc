#include "server/remote/channel_follower.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "proto/errors.h"
#include "proto/strcat.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr size_t kOpenBatch = 1024;
constexpr absl::Duration kMidStep = absl::Milliseconds(300);  // how long a step may still take whose readers are gone

void RingFollower(int fd) {
  const uint64_t one = 1;
  if (write(fd, &one, sizeof(one)) < 0) return;  // rung already
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChannelFollower>> ChannelFollower::Start(PeerRef peer, MutableMemory* memory) {
  std::unique_ptr<ChannelFollower> follower(new ChannelFollower(peer, memory));
  follower->wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!follower->wake_) return ErrnoStatus(errno, "channels of other nodes: eventfd");
  follower->heard_ = MonotonicNow();
  follower->thread_ = std::thread([raw = follower.get()] { raw->Run(); });
  return follower;
}

void ChannelFollower::Add(std::shared_ptr<Mirror> mirror) {
  {
    std::lock_guard lock(mutex_);
    added_.push_back(std::move(mirror));
    look_ = true;  // it may be over already
  }
  RingFollower(wake_.get());
}

void ChannelFollower::Look() {
  {
    std::lock_guard lock(mutex_);
    look_ = true;
  }
  RingFollower(wake_.get());
}

void ChannelFollower::Keep() {
  std::optional<PeerNode::Reader> reader;
  {
    std::lock_guard lock(mutex_);
    reader = reader_;
  }
  if (!reader) return;
  const absl::Status renewed = peer_->RenewFor(*reader).status();
  {
    std::lock_guard lock(mutex_);
    if (!reader_ || reader_->token != reader->token) return;
    renewed_ = renewed;
  }
  RingFollower(wake_.get());
}

void ChannelFollower::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  RingFollower(wake_.get());
  if (thread_.joinable()) thread_.join();
}

void ChannelFollower::Run() {
  while (TakeNews()) {
    if (over_) DropOver();
    GiveBack();
    if (mirrors_.empty()) {
      Disconnect();
      Await(absl::InfiniteDuration());
      continue;
    }
    if (connection_ == nullptr && !Connect()) {
      JudgeSilence();
      Await(kRetry);
      continue;
    }
    OpenGrants();
    if (connection_ == nullptr) continue;
    Await(over_ ? kRetry : NextOpening());
    if (const absl::Status moved = connection_->Step(this); !moved.ok()) Lose(moved);
  }
  Disconnect();
}

bool ChannelFollower::TakeNews() {
  std::optional<absl::Status> renewed;
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return false;
    if (std::exchange(look_, false)) over_ = true;
    if (mirrors_.empty()) heard_ = MonotonicNow();
    for (std::shared_ptr<Mirror>& mirror : added_) {
      const uint32_t segment = mirror->segment();
      mirrors_[segment] = {.mirror = std::move(mirror), .grant = 0, .open_at = absl::InfinitePast()};
    }
    added_.clear();
    renewed = std::exchange(renewed_, std::nullopt);
  }
  if (!renewed) return true;
  if (renewed->ok()) {
    heard_ = MonotonicNow();
    if (away_) SetAway(false);
  } else if (absl::IsPermissionDenied(*renewed)) {
    Lose(*renewed);
  } else {
    JudgeSilence();
  }
  return true;
}

// A step that is under way is written to the mirror's memory: it is waited for, for a moment.
void ChannelFollower::DropOver() {
  over_ = false;
  for (auto it = mirrors_.begin(); it != mirrors_.end();) {
    const auto here = it++;
    const uint64_t grant = here->second.grant;
    if (grant != 0 && grant == receiving_ && memory_->IsMirrorOver(here->first)) {
      if (over_since_ == absl::InfinitePast()) over_since_ = MonotonicNow();
      over_ = true;
      if (MonotonicNow() - over_since_ < kMidStep) continue;
      Lose(absl::UnavailableError("a step does not come to its end"));
    }
    if (!memory_->EndMirrorIfOver(here->first)) continue;
    if (here->second.grant != 0) left_.push_back(here->second.grant);
    grants_.erase(here->second.grant);
    mirrors_.erase(here);
  }
  if (receiving_ == 0) over_ = false;
  if (!over_) over_since_ = absl::InfinitePast();
}

bool ChannelFollower::Connect() {
  absl::StatusOr<PeerNode::Reader> reader = peer_->OpenReader("channels");
  absl::Status status = reader.status();
  if (status.ok()) {
    LaneToken token{};
    std::copy_n(reader->token.begin(), token.size(), token.begin());
    absl::StatusOr<std::unique_ptr<stream::StepReader>> connection = stream::StepReader::Connect(reader->data_address, token, reader->tls);
    status = connection.status();
    if (status.ok()) connection_ = *std::move(connection);
    if (!status.ok()) peer_->CloseReader(*reader);
  }
  if (!status.ok()) {
    for (auto& [segment, followed] : mirrors_) followed.mirror->Fail(status);
    return false;
  }
  std::lock_guard lock(mutex_);
  reader_ = *std::move(reader);
  return true;
}

void ChannelFollower::OpenGrants() {
  std::vector<uint32_t> segments;
  std::vector<std::string> names;
  const absl::Time now = MonotonicNow();
  for (const auto& [segment, followed] : mirrors_) {
    if (followed.grant != 0 || followed.open_at > now || names.size() == kOpenBatch) continue;
    segments.push_back(segment);
    names.push_back(followed.mirror->name());
  }
  if (names.empty()) return;
  std::optional<PeerNode::Reader> reader;
  {
    std::lock_guard lock(mutex_);
    reader = reader_;
  }
  const absl::StatusOr<std::vector<absl::StatusOr<PeerNode::Channel>>> opened = peer_->OpenChannels(*reader, names);
  if (!opened.ok()) return Lose(opened.status());
  heard_ = MonotonicNow();
  if (away_) SetAway(false);
  for (size_t i = 0; i < segments.size(); ++i) {
    const absl::StatusOr<PeerNode::Channel>& one = (*opened)[i];
    const auto at = mirrors_.find(segments[i]);
    if (absl::IsNotFound(one.status()) || (one.ok() && !at->second.mirror->IsOf(one->facts))) {
      if (one.ok()) left_.push_back(one->grant);
      CloseMirror(at);
    } else {
      TakeOpened(at->second, one);
    }
  }
}

void ChannelFollower::TakeOpened(Followed& followed, const absl::StatusOr<PeerNode::Channel>& opened) {
  if (!opened.ok()) {
    followed.mirror->Fail(opened.status());
    followed.mirror->SetAway(true);
    followed.open_at = MonotonicNow() + absl::Seconds(1);
    return;
  }
  followed.grant = opened->grant;
  grants_[opened->grant] = followed.mirror->segment();
  followed.mirror->SetAway(false);
  followed.mirror->Followed();
  for (int i = 0; i < kWindow; ++i) connection_->Await(opened->grant, followed.mirror->After(opened->facts.newest));
}

// Until there is something to do: on the connection, or by news.
void ChannelFollower::Await(absl::Duration longest) {
  pollfd entries[2] = {{wake_.get(), POLLIN, 0}, {-1, 0, 0}};
  if (connection_ != nullptr) {
    if (connection_->has_input()) return;
    entries[1] = {connection_->fd(), connection_->wanted_events(), 0};
  }
  const absl::Duration wait = std::min(longest, absl::Seconds(3600));
  if (poll(entries, 2, static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1))))) <= 0) return;
  uint64_t count;
  if ((entries[0].revents & POLLIN) != 0 && read(wake_.get(), &count, sizeof(count)) < 0) return;  // somebody was faster
}

absl::Duration ChannelFollower::NextOpening() const {
  absl::Time first = absl::InfiniteFuture();
  for (const auto& [segment, followed] : mirrors_) {
    if (followed.grant == 0) first = std::min(first, followed.open_at);
  }
  return std::max(first - MonotonicNow(), absl::ZeroDuration());
}

void ChannelFollower::Lose(const absl::Status& why) {
  if (const auto at = FindGrant(receiving_); at != mirrors_.end()) at->second.mirror->Break();
  Disconnect();
  for (auto& [segment, followed] : mirrors_) {
    followed.grant = 0;
    followed.open_at = absl::InfinitePast();
    followed.mirror->Fail(why);
  }
}

void ChannelFollower::Disconnect() {
  connection_.reset();  // before anything else: nobody writes into a mirror after that
  receiving_ = 0;
  grants_.clear();
  left_.clear();  // they go with the session
  std::optional<PeerNode::Reader> reader;
  {
    std::lock_guard lock(mutex_);
    reader.swap(reader_);
    renewed_.reset();
  }
  if (reader) peer_->CloseReader(*reader);
}

void ChannelFollower::GiveBack() {
  if (left_.empty() || connection_ == nullptr) return left_.clear();
  std::optional<PeerNode::Reader> reader;
  {
    std::lock_guard lock(mutex_);
    reader = reader_;
  }
  peer_->ReleaseFor(*reader, std::exchange(left_, {}));
}

void ChannelFollower::CloseMirror(Mirrors::iterator at) {
  memory_->CloseMirror(at->first);
  grants_.erase(at->second.grant);
  mirrors_.erase(at);
}

void ChannelFollower::SetAway(bool away) {
  away_ = away;
  for (auto& [segment, followed] : mirrors_) {
    if (away || followed.grant != 0) followed.mirror->SetAway(away);
  }
}

// Short interruptions, as when the peer's process is replaced, are nobody's business.
void ChannelFollower::JudgeSilence() {
  if (MonotonicNow() - heard_ > kGrace) SetAway(true);
}

ChannelFollower::Mirrors::iterator ChannelFollower::FindGrant(uint64_t grant) {
  const auto it = grants_.find(grant);
  return it == grants_.end() ? mirrors_.end() : mirrors_.find(it->second);
}

absl::StatusOr<char*> ChannelFollower::Begin(uint64_t grant, uint64_t seq, uint64_t nbytes) {
  const auto at = FindGrant(grant);
  if (at == mirrors_.end()) return nullptr;
  Mirror& mirror = *at->second.mirror;
  if (nbytes != mirror.nbytes() || seq <= mirror.latest()) {
    return absl::UnavailableError(StrCat("node ", peer_->address(), ": sends step ", seq, " of ", nbytes, " bytes after step ", mirror.latest(), " of ",
                                         mirror.nbytes(), " of the channel \"", mirror.name(), "\""));
  }
  receiving_ = grant;
  return mirror.Begin(seq);
}

void ChannelFollower::End(uint64_t grant, uint64_t seq) {
  receiving_ = 0;
  Mirror& mirror = *FindGrant(grant)->second.mirror;  // it is not let go of under way
  mirror.End();
  heard_ = MonotonicNow();
  if (away_) SetAway(false);
  connection_->Await(grant, seq);
}

void ChannelFollower::Over(uint64_t grant, const absl::Status& why) {
  const auto at = FindGrant(grant);
  if (at == mirrors_.end()) return;  // it is over here, too
  if (why.ok()) {
    left_.push_back(grant);
    CloseMirror(at);
    return;
  }
  grants_.erase(grant);
  at->second.grant = 0;
  at->second.open_at = MonotonicNow() + kRetry;
  at->second.mirror->Fail(why);
}

}  // namespace penstock::server
