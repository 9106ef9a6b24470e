#include "server/membership/membership.h"

#include <sys/random.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "proto/strcat.h"
#include "proto/uuid_text.h"
#include "server/membership/cluster_view.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

// What no retry mends.
bool IsFinal(const absl::Status& status) {
  return absl::IsPermissionDenied(status) || absl::IsInvalidArgument(status) || absl::IsUnauthenticated(status) || absl::IsFailedPrecondition(status) || absl::IsUnimplemented(status);
}

}  // namespace

uint64_t Membership::RandomWord() {
  uint64_t word = 0;
  while (word == 0) {
    if (getrandom(&word, sizeof(word), 0) != static_cast<ssize_t>(sizeof(word))) word = 0;
  }
  return word;
}

Membership::Membership(const MembershipOptions& options, Kept* kept, Callbacks callbacks)
    : options_(options), prefix_(StrCat("/penstock/", options.cluster, "/")), watched_{prefix_ + "nodes/", WithPrefix(prefix_ + "view").to},
      patience_(options.ttl / 3), self_(options.self), kept_(kept), callbacks_(std::move(callbacks)), client_(options.etcd, options.access) {
  if (kept_->boot == 0) kept_->boot = RandomWord();
  self_.set_boot(kept_->boot);
  if (self_.session() == 0) self_.set_session(RandomWord());
  // What an earlier process of this node was granted goes on.
  if (kept_->lease == 0) callbacks_.serve_until(0, 0);
  keeper_ = std::thread([this] { Keep(); });
  watcher_ = std::thread([this] { Watch(); });
}

void Membership::Stop(bool leave) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
  }
  changed_.notify_all();
  watching_.Stop();
  keeper_.join();
  watcher_.join();
  if (leave) Leave();
}

Membership::Now Membership::now() const {
  std::lock_guard lock(mutex_);
  Now now{.view = seen_.view, .term = seen_.view.number()};
  const v1::Member* self = FindMember(seen_.view, self_.id());
  const bool member = self != nullptr && self->session() == self_.session();
  now.serving = ViewNamesThisLease() && MonotonicNow() < lease_until_;
  if (now.serving) return now;
  if (!failed_.ok()) now.why = std::string(failed_.message());
  else if (!trouble_.ok()) now.why = std::string(trouble_.message());
  else now.why = member ? "its lease is over" : "it is not a member yet";
  return now;
}

void Membership::Tell(v1::ClusterInfo* info) const {
  const Now now = this->now();
  info->set_name(options_.cluster);
  info->set_term(now.term);
  info->set_serving(now.serving);
  info->set_why(now.why);
  auto add = [&](const v1::Member& member, const char* state) {
    v1::ClusterNode* node = info->add_nodes();
    node->set_node_uuid(UuidText(member.id()));
    node->set_address(member.address());
    node->set_state(state);
    node->set_zone(member.zone());
    node->set_host(member.host());
    node->set_version(member.version());
    return node;
  };
  for (const v1::Member& member : now.view.members()) add(member, member.draining() ? "draining" : "up");
  for (const v1::View::Absent& absent : now.view.absent()) add(absent.member(), "absent")->set_absent_since_ns(absent.since_ns());
}

absl::Status Membership::Failed() const {
  std::lock_guard lock(mutex_);
  return failed_;
}

void Membership::Note(const absl::Status& status) {
  std::string event;
  {
    std::lock_guard lock(mutex_);
    if (status.ok() != trouble_.ok()) event = status.ok() ? "etcd answers again" : std::string(status.message());
    trouble_ = status;
    failed_ = IsFinal(status) ? status : absl::OkStatus();
  }
  if (event.empty()) return;
  std::lock_guard telling(telling_);
  callbacks_.event(event);
}

// --- the lease --------------------------------------------------------------------------------------------------------------

void Membership::Keep() {
  const absl::Duration every = options_.ttl / 3;
  absl::Time renew_at = MonotonicNow();
  while (true) {
    Seen seen;
    std::optional<v1::View> next;
    {
      std::unique_lock lock(mutex_);
      const absl::Duration wait = std::min(renew_at - MonotonicNow(), UntilMyTurn());
      if (!stopping_ && wait > absl::ZeroDuration()) changed_.wait_for(lock, absl::ToChronoNanoseconds(wait));
      if (stopping_) return;
      if (UntilMyTurn() <= absl::ZeroDuration()) {
        seen = seen_;
        next = Wanted(seen_);
      }
    }
    if (MonotonicNow() >= renew_at) {
      renew_at = MonotonicNow() + every;
      const absl::Status renewed = Renew();
      Note(renewed);
      if (!renewed.ok()) renew_at = MonotonicNow() + every / 4;
    }
    if (!next) continue;
    (void)Propose(seen, *next);
    (void)Refresh();  // also tells who was faster
    std::lock_guard lock(mutex_);
    if (differ_since_ != absl::InfinitePast()) differ_since_ = MonotonicNow() + kBetweenProposers;  // it did not help: not at once again
  }
}

// All ways refresh what is seen: a watch that has gone silent is not missed.
absl::Status Membership::Renew() {
  if (kept_->lease == 0) return Register();
  const absl::Time sent = MonotonicNow();
  const absl::StatusOr<absl::Duration> ttl = client_.KeepAlive(kept_->lease, patience_);
  if (ttl.ok()) {
    const absl::StatusOr<bool> there = KeepKey();
    if (!there.ok()) return there.status();
    if (*there) {
      Renewed(sent, *ttl);
      return absl::OkStatus();
    }
    (void)client_.RevokeLease(kept_->lease, patience_);
  } else if (!absl::IsNotFound(ttl.status())) {
    return ttl.status();
  }
  LeaseIsOver();
  return Register();
}

// Whether this node's key is there under its lease; then it is as this process describes it. A key that is not must not come back under
// the same lease: who saw it gone has expelled this node.
absl::StatusOr<bool> Membership::KeepKey() {
  if (absl::Status s = Refresh(); !s.ok()) return s;
  if (absl::Status s = MayRegister(); !s.ok()) return s;
  Key key;
  {
    std::lock_guard lock(mutex_);
    const auto it = seen_.nodes.find(UuidText(self_.id()));
    if (it == seen_.nodes.end()) return false;
    key = it->second;
  }
  if (key.member.boot() != self_.boot() || key.member.lease() != kept_->lease) return false;
  const std::string mine = Described(kept_->lease);
  if (key.member.SerializeAsString() == mine) return true;
  etcdserverpb::TxnRequest txn;  // an earlier process of this node has written it
  CompareRevision(&txn, NodeKey(self_.id()), key.mod_revision);
  PutOnSuccess(&txn, NodeKey(self_.id()), mine)->set_lease(kept_->lease);
  const absl::StatusOr<etcdserverpb::TxnResponse> response = client_.Txn(txn, patience_);
  if (absl::IsNotFound(response.status())) return false;  // the lease has just ended
  if (!response.ok()) return response.status();
  if (!response->succeeded()) return absl::UnavailableError("etcd: this node's key changed while it was renewed");
  (void)Refresh();
  return true;
}

void Membership::LeaseIsOver() {
  kept_->lease = 0;
  std::lock_guard telling(telling_);
  {
    std::lock_guard lock(mutex_);
    lease_until_ = absl::InfinitePast();
    lease_ = 0;
  }
  TellServeUntil(false);
  callbacks_.event("this node's lease at etcd is over: it serves no names until it is a member again");
}

// The ids that begin with the same bytes as this one's.
absl::Status Membership::MayRegister() {
  std::lock_guard lock(mutex_);
  const std::vector<v1::Member> alive = Alive(seen_);
  const v1::Member* other = WhoBars(self_.id(), seen_.view, alive);
  if (other == nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(StrCat("node id ", UuidText(self_.id()), " begins with the same 16 digits as that of the node at ", other->address(), ", ",
                                              UuidText(other->id()), ": give this one another --node_id"));
}

// As it lies in etcd under that lease.
std::string Membership::Described(int64_t lease) const {
  v1::Member member = self_;
  member.set_lease(lease);
  return member.SerializeAsString();
}

// A key that is there is this node's own (etcd's answer was lost), what is left of another life of it, or another node's with the same id.
// The view is part of the condition: a node that was expelled must not take itself for a member because it has not heard of it yet.
absl::Status Membership::Register() {
  if (absl::Status s = Refresh(); !s.ok()) return s;
  if (absl::Status s = MayRegister(); !s.ok()) return s;
  int64_t view = 0;
  {
    std::lock_guard lock(mutex_);
    view = seen_.view_revision;
  }
  const absl::Time sent = MonotonicNow();
  const absl::StatusOr<int64_t> lease = client_.GrantLease(options_.ttl, patience_);
  if (!lease.ok()) return lease.status();
  const std::string key = NodeKey(self_.id());
  int64_t over = 0;  // the revision of an own key
  for (int attempt = 0; attempt < 2; ++attempt) {
    etcdserverpb::TxnRequest txn;
    CompareRevision(&txn, key, over);
    CompareRevision(&txn, ViewKey(), view);
    PutOnSuccess(&txn, key, Described(*lease))->set_lease(*lease);
    txn.add_failure()->mutable_request_range()->set_key(key);
    const absl::StatusOr<etcdserverpb::TxnResponse> response = client_.Txn(txn, patience_);
    if (!response.ok()) return response.status();  // the lease ends by itself
    if (response->succeeded()) {
      kept_->lease = *lease;
      Renewed(sent, options_.ttl);
      (void)Refresh();
      return absl::OkStatus();
    }
    if (response->responses_size() != 1 || response->responses(0).response_range().kvs_size() != 1) break;  // the view has changed
    const etcdserverpb::KeyValue& there = response->responses(0).response_range().kvs(0);
    v1::Member member;
    if (!member.ParseFromString(there.value())) return absl::FailedPreconditionError(StrCat("etcd: ", key, " is not Penstock's"));
    if (member.boot() != self_.boot()) {
      (void)client_.RevokeLease(*lease, patience_);
      return IdIsTaken(member);
    }
    over = there.mod_revision();
  }
  (void)client_.RevokeLease(*lease, patience_);
  return absl::UnavailableError("etcd: the view changed while this node took its place");
}

absl::Status Membership::IdIsTaken(const v1::Member& by) {
  const std::string what = StrCat("node id ", UuidText(self_.id()), " is taken by the node at ", by.address());
  std::lock_guard lock(mutex_);
  if (taken_since_ == absl::InfinitePast()) taken_since_ = MonotonicNow();
  // An earlier life of this node is over when its lease is.
  if (MonotonicNow() - taken_since_ < 2 * options_.ttl + absl::Seconds(2)) return absl::UnavailableError(StrCat(what, "; waiting for its lease to end"));
  return absl::FailedPreconditionError(StrCat(what, ", which is alive: give this one another --node_id"));
}

void Membership::Renewed(absl::Time sent, absl::Duration ttl) {
  // The margin is for clocks that go at different speeds, and for what lies between looking at the clock and an answer that is out.
  const absl::Duration margin = ttl / 10;
  std::lock_guard telling(telling_);
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    lease_ = kept_->lease;
    lease_until_ = sent + ttl - margin;
    taken_since_ = absl::InfinitePast();
  }
  TellServeUntil(false);
}

bool Membership::ViewNamesThisLease() const {
  const v1::Member* self = FindMember(seen_.view, self_.id());
  return self != nullptr && self->session() == self_.session() && self->boot() == self_.boot() && lease_ != 0 && self->lease() == lease_;
}

// Names are served by members, while their lease goes on.
void Membership::TellServeUntil(bool again) {
  uint64_t until = 0;
  int64_t lease = 0;
  {
    std::lock_guard lock(mutex_);
    if (ViewNamesThisLease()) {
      until = static_cast<uint64_t>(absl::ToUnixNanos(lease_until_));
      lease = lease_;
    }
  }
  if (until == told_until_ && !(again && until != 0)) return;
  told_until_ = until;
  callbacks_.serve_until(until, lease);
}

}  // namespace penstock::server
