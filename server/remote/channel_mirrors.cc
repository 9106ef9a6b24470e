#include "server/remote/channel_mirrors.h"

#include <algorithm>
#include <string>

#include "proto/errors.h"
#include "proto/layout/channel_layout.h"
#include "proto/strcat.h"
#include "transport/futex.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kFirstStepSlice = absl::Milliseconds(20);

// Channels have names of their own: a tensor of the same name may be at home elsewhere.
std::string HomeKey(const std::string& name) { return StrCat("channel:", name); }

}  // namespace

ChannelMirrors::ChannelMirrors(MutableMemory* memory, Homes* homes, bool rdma_only)
    : memory_(memory), homes_(homes), rdma_only_(rdma_only) {
  memory_->OnMirrorOver([this] {
    std::lock_guard lock(mutex_);
    for (const auto& [whose, follower] : followers_) follower->Look();
  });
  std::lock_guard lock(finding_);
  for (MutableMemory::MirrorMemory& mirror : memory_->TakeMirrors()) {
    orphans_.push_back({std::make_shared<Mirror>(std::move(mirror)), MonotonicNow()});
  }
  if (!orphans_.empty()) jobs_.Run([this] { FindHomesOfOrphans(); });
}

void ChannelMirrors::Stop() {
  jobs_.Stop();
  std::map<std::pair<PeerRef, bool>, std::unique_ptr<ChannelFollower>> followers;
  {
    std::lock_guard lock(mutex_);
    followers.swap(followers_);
  }
  for (const auto& [whose, follower] : followers) follower->Stop();
  memory_->OnMirrorOver({});
}

void ChannelMirrors::Keep() {
  std::vector<ChannelFollower*> followers;  // they stay until Stop
  {
    std::lock_guard lock(mutex_);
    for (const auto& [whose, follower] : followers_) followers.push_back(follower.get());
  }
  for (ChannelFollower* follower : followers) follower->Keep();
  FindHomesOfOrphans();
}

void ChannelMirrors::Open(const Asking& asking, const MutableSpec& spec, Answer answer) {
  jobs_.Run([this, asking, spec, answer = std::move(answer)] { answer(OpenNow(asking, spec)); });
}

absl::StatusOr<MutableMemory::Opened> ChannelMirrors::OpenNow(const Asking& asking, const MutableSpec& spec) {
  absl::Status missing = absl::NotFoundError(StrCat("no channel \"", spec.name, "\", on none of ", homes_->node_count(), " nodes"));
  for (const PeerRef& peer : homes_->InOrder(HomeKey(spec.name))) {
    const absl::StatusOr<MutableMemory::Facts> facts = peer->LookForChannel(spec.name);
    if (facts.ok()) return OpenAt(peer, *facts, asking, spec);
    const bool has_none = absl::IsNotFound(facts.status()) || absl::IsUnimplemented(facts.status());  // of an older release
    if (!has_none) missing = facts.status();
  }
  return missing;
}

absl::StatusOr<MutableMemory::Opened> ChannelMirrors::OpenAt(const PeerRef& peer, const MutableMemory::Facts& facts, const Asking& asking,
                                                             const MutableSpec& spec) {
  homes_->Found(HomeKey(spec.name), peer);
  if (rdma_only_ || asking.require_rdma) {
    return TransportError(StrCat("channel \"", spec.name, "\": RDMA is required (require_transport), but steps of channels of other nodes, here ",
                                 peer->address(), ", come over the stream lane"));
  }
  const absl::StatusOr<MutableMemory::MirrorMemory> memory = memory_->MakeMirror(asking.session, asking.opened, facts, peer->address());
  if (absl::IsAlreadyExists(memory.status())) return memory_->Open(asking.session, asking.opened, spec);  // of this node, just now
  if (!memory.ok()) return memory.status();
  std::shared_ptr<Mirror> made;
  absl::Status status;
  if (memory->made) {
    made = std::make_shared<Mirror>(*memory);
    const absl::StatusOr<ChannelFollower*> follower = FollowerOf(peer, facts.spec.nbytes);
    status = follower.status();
    if (status.ok()) {
      (*follower)->Add(made);
    } else {
      memory_->CloseMirror(memory->segment);
    }
  }
  if (status.ok()) status = AwaitFirst(*memory, made.get());
  absl::StatusOr<MutableMemory::Opened> opened =
      status.ok() ? memory_->Open(asking.session, asking.opened, spec) : absl::StatusOr<MutableMemory::Opened>(status);
  if (!opened.ok()) memory_->Closed(asking.session, {.header = {}, .segment = memory->segment, .flags = 0, .opened = asking.opened});
  return opened;
}

// Who opens a channel that has steps finds the newest one in it.
absl::Status ChannelMirrors::AwaitFirst(const MutableMemory::MirrorMemory& memory, const Mirror* made) {
  const layout::ChannelHeader* header = layout::ChannelHeaderAt(static_cast<const void*>(memory.address));
  const absl::Time end = MonotonicNow() + kPatience;
  while (true) {
    const uint32_t seen = header->turns.load();
    if (header->latest.load() > 0 || header->closed.load() != 0) return absl::OkStatus();
    if (memory.facts.newest == 0 && (made == nullptr || made->followed())) return absl::OkStatus();
    if (made != nullptr && !made->failure().ok()) return made->failure();
    if (MonotonicNow() >= end) {
      return absl::UnavailableError(StrCat("channel \"", memory.facts.spec.name, "\": its node told of it, but no step came in ", absl::FormatDuration(kPatience)));
    }
    FutexWait(&header->turns, seen, kFirstStepSlice);
  }
}

absl::StatusOr<ChannelFollower*> ChannelMirrors::FollowerOf(const PeerRef& peer, uint64_t nbytes) {
  std::lock_guard lock(mutex_);
  std::unique_ptr<ChannelFollower>& follower = followers_[{peer, nbytes >= kLargeStepBytes}];
  if (follower == nullptr) {
    absl::StatusOr<std::unique_ptr<ChannelFollower>> started = ChannelFollower::Start(peer, memory_);
    if (!started.ok()) return started.status();
    follower = *std::move(started);
  }
  return follower.get();
}

void ChannelMirrors::FindHomesOfOrphans() {
  std::lock_guard lock(finding_);
  std::erase_if(orphans_, [this](const Orphan& orphan) { return memory_->EndMirrorIfOver(orphan.mirror->segment()) || FindHomeOf(orphan); });
}

// Whether it is no orphan any more.
bool ChannelMirrors::FindHomeOf(const Orphan& orphan) {
  bool all_have_answered = true;
  for (const PeerRef& peer : homes_->InOrder(HomeKey(orphan.mirror->name()))) {
    const absl::StatusOr<MutableMemory::Facts> facts = peer->LookForChannel(orphan.mirror->name());
    if (facts.ok() && orphan.mirror->IsOf(*facts)) {
      const absl::StatusOr<ChannelFollower*> follower = FollowerOf(peer, facts->spec.nbytes);
      if (!follower.ok()) return false;
      homes_->Found(HomeKey(orphan.mirror->name()), peer);
      memory_->SetMirrorHome(orphan.mirror->segment(), peer->address());
      (*follower)->Add(orphan.mirror);
      return true;
    }
    if (!facts.ok() && !absl::IsNotFound(facts.status())) all_have_answered = false;
  }
  if (all_have_answered) memory_->CloseMirror(orphan.mirror->segment());
  if (!all_have_answered && MonotonicNow() - orphan.since > ChannelFollower::kGrace) orphan.mirror->SetAway(true);
  return all_have_answered;
}

}  // namespace penstock::server
