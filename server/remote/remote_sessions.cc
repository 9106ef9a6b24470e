#include "server/remote/remote_sessions.h"

#include <sys/random.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/time/clock.h"
#include "proto/errors.h"
#include "proto/strcat.h"
#include "transport/monotonic.h"
#include "transport/stream/tls.h"

namespace penstock::server {

namespace {

constexpr size_t kMaxLabelBytes = 63;
// Ids of remote sessions begin where those of local ones never come.
constexpr uint64_t kFirstId = uint64_t{1} << 48;

absl::Status Over() {
  return absl::PermissionDeniedError("the remote session is over, or was never opened here: open another one");
}

}  // namespace

absl::StatusOr<RemoteSessions::Opened> RemoteSessions::Open(std::string_view label, absl::Duration ttl, bool rdma, absl::Time now) {
  if (label.size() > kMaxLabelBytes) {
    return absl::InvalidArgumentError(StrCat("label: has ", label.size(), " bytes; at most ", kMaxLabelBytes));
  }
  if (ttl == absl::ZeroDuration()) ttl = kDefaultTtl;
  if (ttl < kLeastTtl || ttl > kMostTtl) {
    return absl::InvalidArgumentError(StrCat("ttl_ns: ", absl::ToInt64Nanoseconds(ttl), "; allowed are 1 s to 60 s, or 0 for 10 s"));
  }
  Opened opened{.token = {}, .ttl = ttl};
  if (getrandom(opened.token.data(), opened.token.size(), 0) != static_cast<ssize_t>(opened.token.size())) {
    return ErrnoStatus(errno, "getrandom");
  }
  const TlsIdentity identity = stream::TlsKeyOf(opened.token).identity;
  uint64_t id = 0;
  {
    std::lock_guard lock(mutex_);
    if (sessions_.size() >= max_sessions_) {
      return absl::ResourceExhaustedError(StrCat("remote sessions: ", sessions_.size(), " are open, the most that this node takes (--max_sessions)"));
    }
    id = kFirstId + next_id_++;
    sessions_.emplace(opened.token, RemoteSession{.id = id, .label = std::string(label), .ttl = ttl, .deadline = now + ttl + kMargin, .rdma = rdma,
                                                .opened_ns = static_cast<uint64_t>(absl::GetCurrentTimeNanos()), .grants = {}, .drafts = {}, .channels = {}});
    identities_[identity] = opened.token;
  }
  store_->LogEvent(v1::Event::SESSION, StrCat("remote session ", id, " (", label, ") opened"));  // from now on Expire has work
  return opened;
}

absl::StatusOr<RemoteSessions::RemoteSession*> RemoteSessions::Find(const LaneToken& token) {
  auto it = sessions_.find(token);
  if (it == sessions_.end() || it->second.deadline <= MonotonicNow()) return Over();
  return &it->second;
}

absl::StatusOr<absl::Duration> RemoteSessions::Renew(const LaneToken& token, absl::Time now) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RemoteSession*> session = Find(token);
  if (!session.ok()) return session.status();
  (*session)->deadline = now + (*session)->ttl + kMargin;
  return (*session)->ttl;
}

void RemoteSessions::Close(const LaneToken& token) {
  Sessions::node_type ended;  // its pins are given back without the lock
  {
    std::lock_guard lock(mutex_);
    if (const auto it = sessions_.find(token); it != sessions_.end()) ended = TakeOut(it);
  }
  if (!ended.empty()) Ended(token);
}

RemoteSessions::Sessions::node_type RemoteSessions::TakeOut(Sessions::const_iterator session) {
  identities_.erase(stream::TlsKeyOf(session->first).identity);
  return sessions_.extract(session);
}

std::optional<LaneToken> RemoteSessions::TokenOf(const TlsIdentity& identity) {
  std::lock_guard lock(mutex_);
  const auto it = identities_.find(identity);
  if (it == identities_.end() || !Find(it->second).ok()) return std::nullopt;
  return it->second;
}

void RemoteSessions::Ended(const LaneToken& token) {
  recall_->Forget(token);
  if (on_end_) on_end_(token);
}

// Another member has it, or this one and does not serve it by name now.
absl::StatusOr<Store::HeldTensor> RemoteSessions::HoldFetched(std::string_view name, uint64_t version) {
  const absl::StatusOr<Published> here = fetch_(std::string(name), version);
  if (!here.ok()) return here.status();
  absl::StatusOr<Store::HeldTensor> held = store_->HoldLive(here->record, here->record_seq);
  if (absl::IsNotFound(held.status())) return absl::UnavailableError(StrCat("'", name, "': it changed meanwhile; try again"));
  return held;
}

absl::StatusOr<RemoteSessions::Located> RemoteSessions::Locate(const LaneToken& token, std::string_view name, const Wanted& wanted) {
  if (absl::Status s = Check(token); !s.ok()) return s;
  const bool lease = wanted.lease && wanted.version == 0 && !fetch_ && recall_->Grants(token, name, MonotonicNow());
  absl::StatusOr<Store::HeldTensor> held = store_->WhileReturning([&] {
    return wanted.op.session != 0 ? store_->HoldByOp(name, wanted.op)
                                  : store_->Hold(name, wanted.version, lease ? LeaseRecall::kLease : absl::ZeroDuration());
  });
  if (absl::IsNotFound(held.status()) && fetch_ && wanted.op.session == 0) held = HoldFetched(name, wanted.version);
  if (!held.ok()) return held.status();
  if (wanted.verify) {
    if (absl::Status s = store_->Verify(*held); !s.ok()) return s;
  }
  Located located{.info = held->info, .grant = 0, .data = held->data, .segment = held->segment};
  located.lease = held->lease;
  located.unchanged = held->info.version().number() == wanted.have_version && held->info.created_ns() == wanted.have_created_ns;
  if (located.unchanged || located.info.nbytes() == 0) return located;
  const absl::StatusOr<uint64_t> grant = AddGrant(token, {.held = *std::move(held)}, &located.rdma);
  if (!grant.ok()) return grant.status();
  located.grant = *grant;
  return located;
}

// `rdma`: as the session.
absl::StatusOr<uint64_t> RemoteSessions::AddGrant(const LaneToken& token, Grant grant, bool* rdma) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RemoteSession*> session = Find(token);  // may have ended meanwhile
  if (!session.ok()) return session.status();
  if ((*session)->grants.size() >= kMaxGrants) {
    return absl::ResourceExhaustedError(StrCat("pins: this remote session has ", kMaxGrants, ", the most that one may have; release some"));
  }
  if (rdma != nullptr) *rdma = (*session)->rdma;
  (*session)->grants.emplace(next_grant_, std::move(grant));
  return next_grant_++;
}

absl::StatusOr<RemoteSessions::Chain> RemoteSessions::JoinChain(const LaneToken& token, uint64_t grant, const NodeUuid& node) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RemoteSession*> session = Find(token);
  if (!session.ok()) return session.status();
  const auto it = (*session)->grants.find(grant);
  if (it == (*session)->grants.end()) return absl::NotFoundError(StrCat("grant: ", grant, " is no tensor that this session has pinned"));
  if (it->second.place != nullptr) return absl::FailedPreconditionError(StrCat("grant: ", grant, " is in the chain already"));
  const v1::Location& location = it->second.held.info.location();
  FetchChains::Joined joined = chains_.Join({location.record(), location.record_seq() | 1}, node);
  it->second.place = std::move(joined.place);
  return Chain{.ahead = joined.ahead, .ahead_count = joined.ahead_count};
}

absl::StatusOr<RemoteSessions::LocatedCopy> RemoteSessions::LocateCopy(const LaneToken& token, const std::string& name, uint64_t version, uint64_t created_ns) {
  if (absl::Status s = Check(token); !s.ok()) return s;
  Grant grant;
  if (growing_ != nullptr) grant.growing = growing_->Find({name, version, created_ns});
  if (grant.growing != nullptr) {
    grant.held = grant.growing->held();
  } else {
    const absl::StatusOr<Published> here = store_->Lookup(name, version);
    if (!here.ok()) return here.status();
    if (here->created_ns != created_ns) return absl::NotFoundError(StrCat("'", name, "': not the version that was asked for"));
    absl::StatusOr<Store::HeldTensor> held = store_->HoldLive(here->record, here->record_seq);
    if (!held.ok()) return held.status();
    grant.held = *std::move(held);
  }
  LocatedCopy located{.nbytes = grant.held.info.nbytes()};
  const absl::StatusOr<uint64_t> number = AddGrant(token, std::move(grant));
  if (!number.ok()) return number.status();
  located.grant = *number;
  return located;
}

absl::StatusOr<LeaseRecall::Recalls> RemoteSessions::AwaitRecalls(const LaneToken& token, uint64_t done) {
  if (absl::Status s = Check(token); !s.ok()) return s;
  return recall_->Await(token, done, kAwaitRecalls);
}

absl::Status RemoteSessions::Release(const LaneToken& token, absl::Span<const uint64_t> numbers) {
  std::vector<Grant> released;  // given back without the lock
  std::vector<std::shared_ptr<RemoteDraft>> aborted;
  std::vector<std::shared_ptr<ChannelSource>> left;
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RemoteSession*> session = Find(token);
  if (!session.ok()) return session.status();
  for (uint64_t number : numbers) {
    if (auto it = (*session)->grants.find(number); it != (*session)->grants.end()) {
      released.push_back(std::move(it->second));
      (*session)->grants.erase(it);
    } else if (auto draft = (*session)->drafts.find(number); draft != (*session)->drafts.end()) {
      aborted.push_back(std::move(draft->second));
      (*session)->drafts.erase(draft);
    } else if (auto channel = (*session)->channels.find(number); channel != (*session)->channels.end()) {
      channel->second.source->Release();
      left.push_back(std::move(channel->second.source));
      (*session)->channels.erase(channel);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<RemoteSessions::OpenedChannel> RemoteSessions::OpenChannel(const LaneToken& token, const std::string& name, bool look) {
  if (absl::Status s = Check(token); !s.ok()) return s;
  if (channels_ == nullptr) return absl::NotFoundError(StrCat("no channel \"", name, "\" is written on this node"));
  OpenedChannel opened;
  if (look) {
    absl::StatusOr<MutableMemory::Facts> facts = channels_->Look(name);
    if (!facts.ok()) return facts.status();
    opened.facts = *std::move(facts);
    return opened;
  }
  absl::StatusOr<std::shared_ptr<ChannelSource>> source = channels_->Follow(name, &opened.facts);
  if (!source.ok()) return source.status();
  std::shared_ptr<ChannelSource> before;  // goes without the lock, as `source` does
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RemoteSession*> session = Find(token);  // may have ended meanwhile
  if (!session.ok()) return session.status();
  std::map<uint64_t, FollowedChannel>& all = (*session)->channels;
  const auto same = std::find_if(all.begin(), all.end(), [&](const auto& entry) { return entry.second.incarnation == opened.facts.incarnation; });
  if (same != all.end()) {
    before = std::move(same->second.source);
    before->Release();
    all.erase(same);
  }
  opened.grant = next_grant_++;
  all[opened.grant] = {.incarnation = opened.facts.incarnation, .source = *std::move(source)};
  return opened;
}

absl::StatusOr<RemoteSessions::Reserved> RemoteSessions::Reserve(const LaneToken& token, const CreateSpec& spec, bool if_home) {
  if (absl::Status s = Check(token); !s.ok()) return s;
  Reserved reserved;
  reserved.published = store_->PublishedBy(spec.name, spec.request_id);
  if (reserved.published) return reserved;
  const bool by_directory = fetch_ != nullptr;
  if (if_home && !by_directory && !store_->HasOwn(spec.name)) return absl::NotFoundError(StrCat("'", spec.name, "': this node has no such tensor"));
  CreateSpec judged = spec;
  judged.judged_later = by_directory;
  const absl::StatusOr<Placed> placed = writer_.Reserve(judged, Store::kMemoryWait);
  if (!placed.ok()) return placed.status();
  const auto draft = std::make_shared<RemoteDraft>(&writer_, std::string(spec.name), *placed, spec.nbytes);  // aborted when it is not kept
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RemoteSession*> session = Find(token);  // may have ended meanwhile
  if (!session.ok()) return session.status();
  if ((*session)->drafts.size() >= kMaxDrafts) {
    return absl::ResourceExhaustedError(StrCat("drafts: this remote session has ", kMaxDrafts, ", the most that one may have; publish or release some"));
  }
  reserved.draft = next_grant_++;
  reserved.data = placed->block.address;
  reserved.rdma = (*session)->rdma;
  (*session)->drafts.emplace(reserved.draft, draft);
  return reserved;
}

absl::Status RemoteSessions::ShareByRdma(const LaneToken& token, uint64_t draft, std::shared_ptr<const void> registration) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RemoteSession*> session = Find(token);
  if (!session.ok()) return session.status();
  const auto it = (*session)->drafts.find(draft);
  if (it == (*session)->drafts.end()) return absl::NotFoundError(StrCat("draft ", draft, ": is over"));
  it->second->ShareByRdma(std::move(registration));
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<RemoteDraft>> RemoteSessions::TakeDraft(const LaneToken& token, uint64_t number) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RemoteSession*> session = Find(token);
  if (!session.ok()) return session.status();
  auto it = (*session)->drafts.find(number);
  if (it == (*session)->drafts.end()) {
    return absl::NotFoundError(StrCat("draft ", number, ": this session has no such draft (published, released, or never made)"));
  }
  if (it->second.use_count() > 1) {  // transfers; new ones cannot begin, for that takes the lock
    return absl::FailedPreconditionError(StrCat("draft ", number, ": bytes are still being written; publish when the last write is answered"));
  }
  std::shared_ptr<RemoteDraft> draft = std::move(it->second);
  (*session)->drafts.erase(it);
  return draft;
}

std::vector<absl::StatusOr<Published>> RemoteSessions::Publish(const LaneToken& token, absl::Span<const uint64_t> numbers,
                                                               absl::Span<const uint64_t> written_by_rdma) {
  const absl::flat_hash_set<uint64_t> by_rdma(written_by_rdma.begin(), written_by_rdma.end());
  std::vector<absl::StatusOr<std::shared_ptr<RemoteDraft>>> drafts;
  std::vector<std::string> names;
  for (uint64_t number : numbers) {
    drafts.push_back(TakeDraft(token, number));
    names.push_back(drafts.back().ok() ? (*drafts.back())->name() : std::string());
    if (drafts.back().ok() && by_rdma.contains(number)) (*drafts.back())->WrittenByRdma();
  }
  return recall_->ChangeMany(names, [&](size_t i, LeaseRule leases) {
    return drafts[i].ok() ? (*drafts[i])->Publish(leases) : absl::StatusOr<Published>(drafts[i].status());
  });
}

void RemoteSessions::Expire(absl::Time now) {
  std::vector<Sessions::node_type> ended;
  {
    std::lock_guard lock(mutex_);
    for (auto it = sessions_.begin(); it != sessions_.end();) {
      const auto here = it++;
      if (here->second.deadline <= now) ended.push_back(TakeOut(here));
    }
  }
  for (const Sessions::node_type& node : ended) {
    Ended(node.key());
  }
}

void RemoteSessions::ListSessions(v1::SessionsResponse* response) const {
  std::lock_guard lock(mutex_);
  for (const auto& [token, session] : sessions_) {
    v1::SessionInfo* info = response->add_sessions();
    info->set_id(session.id);
    info->set_label(session.label);
    info->set_pins(session.grants.size());
    info->set_drafts(session.drafts.size());
    info->set_opened_ns(session.opened_ns);
    info->set_requests(session.requests);
  }
}

void RemoteSessions::ListPins(const v1::PinsRequest& request, v1::PinsResponse* response) const {
  const int limit = request.limit() == 0 ? 1000 : static_cast<int>(request.limit());
  std::lock_guard lock(mutex_);
  for (const auto& [token, session] : sessions_) {
    std::map<std::pair<std::string, uint64_t>, v1::PinInfo> pins;
    for (const auto& [number, grant] : session.grants) {
      const Store::HeldTensor& held = grant.held;
      if (!std::string_view(held.info.name()).starts_with(request.prefix())) continue;
      v1::PinInfo& pin = pins[{held.info.name(), held.info.version().number()}];
      pin.set_session(session.id);
      pin.set_name(held.info.name());
      *pin.mutable_version() = held.info.version();
      pin.set_nbytes(held.info.nbytes());
      pin.set_count(pin.count() + 1);
    }
    for (auto& [key, pin] : pins) {
      if (response->pins_size() >= limit) return;
      *response->add_pins() = std::move(pin);
    }
  }
}

size_t RemoteSessions::count() const {
  std::lock_guard lock(mutex_);
  return sessions_.size();
}

absl::Status RemoteSessions::BeginCall(const LaneToken& token) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RemoteSession*> session = Find(token);
  if (session.ok()) ++(*session)->requests;
  return session.status();
}

absl::Status RemoteSessions::Check(const LaneToken& token) {
  std::lock_guard lock(mutex_);
  return Find(token).status();
}

absl::StatusOr<GrantedBlock> RemoteSessions::Use(const LaneToken& token, uint64_t grant, TransferKind kind) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RemoteSession*> session = Find(token);
  if (!session.ok()) return session.status();
  if (PutOffers::IsOffer(grant) && kind == TransferKind::kRead) return offers_.Use(grant);
  if (auto draft = (*session)->drafts.find(grant); draft != (*session)->drafts.end()) {
    if (kind != TransferKind::kWrite) return absl::PermissionDeniedError(StrCat("draft ", grant, ": is for writing until it is published"));
    return draft->second->Block();
  }
  auto it = (*session)->grants.find(grant);
  if (it == (*session)->grants.end()) return absl::PermissionDeniedError(StrCat("grant ", grant, ": not this session's, or released"));
  if (kind != TransferKind::kRead) return absl::PermissionDeniedError(StrCat("grant ", grant, ": is for reading"));
  const auto& [held, growing, place] = it->second;
  GrantedBlock block{const_cast<char*>(held.data), held.info.nbytes(), held.hold};  // not written: kind is kRead
  if (growing != nullptr) {
    block.hold = growing;
    block.growing = growing.get();
  }
  return block;
}

absl::StatusOr<std::shared_ptr<StepSource>> RemoteSessions::Follow(const LaneToken& token, uint64_t grant) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RemoteSession*> session = Find(token);
  if (!session.ok()) return session.status();
  const auto it = (*session)->channels.find(grant);
  if (it == (*session)->channels.end()) return absl::PermissionDeniedError(StrCat("grant ", grant, ": not a channel that this session has opened, or released"));
  return it->second.source;
}

}  // namespace penstock::server
