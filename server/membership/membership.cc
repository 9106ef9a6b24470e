#include "server/membership/membership.h"

#include <sys/random.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "proto/strcat.h"
#include "proto/uuid_text.h"
#include "server/membership/cluster_view.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kBetweenProposers = absl::Milliseconds(200);
constexpr absl::Duration kRetryWatch = absl::Milliseconds(200);
constexpr absl::Duration kForgetPatience = absl::Seconds(5);
constexpr absl::Duration kLeavePatience = absl::Seconds(1);

uint64_t RandomBoot() {
  uint64_t boot = 0;
  while (boot == 0) {
    if (getrandom(&boot, sizeof(boot), 0) != static_cast<ssize_t>(sizeof(boot))) boot = 0;
  }
  return boot;
}

// 0: it is not there.
void CompareRevision(etcdserverpb::TxnRequest* txn, const std::string& key, int64_t mod_revision) {
  etcdserverpb::Compare* compare = txn->add_compare();
  compare->set_result(etcdserverpb::Compare::EQUAL);
  compare->set_key(key);
  compare->set_target(etcdserverpb::Compare::MOD);
  compare->set_mod_revision(mod_revision);
}

etcdserverpb::PutRequest* Put(etcdserverpb::TxnRequest* txn, const std::string& key, std::string value) {
  etcdserverpb::PutRequest* put = txn->add_success()->mutable_request_put();
  put->set_key(key);
  put->set_value(std::move(value));
  return put;
}

// What no retry mends.
bool IsFinal(const absl::Status& status) {
  return absl::IsPermissionDenied(status) || absl::IsInvalidArgument(status) || absl::IsUnauthenticated(status) || absl::IsFailedPrecondition(status) || absl::IsUnimplemented(status);
}

}  // namespace

Membership::Membership(const MembershipOptions& options, Kept* kept, Callbacks callbacks)
    : options_(options), prefix_(StrCat("/penstock/", options.cluster, "/")), patience_(options.ttl / 3), self_(options.self), kept_(kept),
      callbacks_(std::move(callbacks)), client_(options.etcd, options.access) {
  if (kept_->boot == 0) kept_->boot = RandomBoot();
  self_.set_boot(kept_->boot);
  // What an earlier process of this node was granted goes on.
  if (kept_->lease == 0) callbacks_.serve_until(0);
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
  Now now{.view = seen_.view, .term = static_cast<uint64_t>(seen_.view_revision)};
  const v1::Member* self = FindMember(seen_.view, self_.id());
  const bool member = self != nullptr && self->boot() == self_.boot();
  now.serving = member && MonotonicNow() < lease_until_;
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
    node->set_version(member.version());
    return node;
  };
  for (const v1::Member& member : now.view.members()) add(member, "up");
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
    absl::Duration turn;
    {
      std::unique_lock lock(mutex_);
      const absl::Duration wait = std::min(renew_at - MonotonicNow(), UntilMyTurn());
      if (!stopping_ && wait > absl::ZeroDuration()) changed_.wait_for(lock, absl::ToChronoNanoseconds(wait));
      if (stopping_) return;
      turn = UntilMyTurn();
      if (turn <= absl::ZeroDuration()) seen = seen_;
    }
    if (MonotonicNow() >= renew_at) {
      renew_at = MonotonicNow() + every;
      const absl::Status renewed = Renew();
      Note(renewed);
      if (!renewed.ok()) renew_at = MonotonicNow() + every / 4;
      (void)Refresh();  // a watch that has gone silent is not missed
    }
    if (turn > absl::ZeroDuration()) continue;
    if (const std::optional<v1::View> next = Wanted(seen)) (void)Propose(seen, *next);
    (void)Refresh();  // also tells who was faster
    std::lock_guard lock(mutex_);
    if (differ_since_ != absl::InfinitePast()) differ_since_ = MonotonicNow() + kBetweenProposers;  // it did not help: not at once again
  }
}

absl::Status Membership::Renew() {
  if (kept_->lease == 0) return Register();
  const absl::Time sent = MonotonicNow();
  const absl::StatusOr<absl::Duration> ttl = client_.KeepAlive(kept_->lease, patience_);
  if (ttl.ok()) {
    Renewed(sent, *ttl);
    return absl::OkStatus();
  }
  if (!absl::IsNotFound(ttl.status())) return ttl.status();
  LeaseIsOver();
  return Register();
}

void Membership::LeaseIsOver() {
  kept_->lease = 0;
  std::lock_guard telling(telling_);
  {
    std::lock_guard lock(mutex_);
    lease_until_ = absl::InfinitePast();
  }
  TellServeUntil();
  callbacks_.event("this node's lease at etcd is over: it serves no names until it is a member again");
}

// A key that is there is this node's own (etcd's answer was lost), what is left of another life of it, or another node's with the same id.
// The view is part of the condition: a node that was expelled must not take itself for a member because it has not heard of it yet.
absl::Status Membership::Register() {
  if (absl::Status s = Refresh(); !s.ok()) return s;
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
    Put(&txn, key, self_.SerializeAsString())->set_lease(*lease);
    txn.add_failure()->mutable_request_range()->set_key(key);
    const absl::StatusOr<etcdserverpb::TxnResponse> response = client_.Txn(txn, patience_);
    if (!response.ok()) return response.status();  // the lease ends by itself
    if (response->succeeded()) {
      kept_->lease = *lease;
      Renewed(sent, options_.ttl);
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
    lease_until_ = sent + ttl - margin;
    taken_since_ = absl::InfinitePast();
  }
  TellServeUntil();
}

// Names are served by members, while their lease goes on.
void Membership::TellServeUntil() {
  uint64_t until = 0;
  {
    std::lock_guard lock(mutex_);
    const v1::Member* self = FindMember(seen_.view, self_.id());
    if (self != nullptr && self->boot() == self_.boot() && lease_until_ != absl::InfinitePast()) {
      until = static_cast<uint64_t>(absl::ToUnixNanos(lease_until_));
    }
  }
  if (until == told_until_) return;
  told_until_ = until;
  callbacks_.serve_until(until);
}

// --- what is in etcd --------------------------------------------------------------------------------------------------------

void Membership::Watch() {
  while (true) {
    absl::Status status = Refresh();
    if (status.ok()) {
      int64_t from = 0;
      {
        std::lock_guard lock(mutex_);
        if (stopping_) return;
        from = seen_.revision + 1;
      }
      status = watching_.Run(prefix_, from, [this](const etcdserverpb::WatchResponse& response) { Apply(response); });
    }
    std::unique_lock lock(mutex_);
    if (stopping_) return;
    if (absl::IsOutOfRange(status)) continue;  // all is read anew
    if (changed_.wait_for(lock, absl::ToChronoNanoseconds(kRetryWatch), [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; })) return;
  }
}

absl::Status Membership::Refresh() {
  const absl::StatusOr<etcdserverpb::RangeResponse> all = client_.List(prefix_, patience_);
  if (!all.ok()) return all.status();
  Seen seen{.revision = all->header().revision()};
  for (const etcdserverpb::KeyValue& kv : all->kvs()) ApplyKey(options_, kv, false, &seen);
  Told(std::move(seen));
  return absl::OkStatus();
}

void Membership::Apply(const etcdserverpb::WatchResponse& response) {
  Seen seen;
  {
    std::lock_guard lock(mutex_);
    seen = seen_;
  }
  int64_t last = seen.revision;
  for (const etcdserverpb::Event& event : response.events()) {
    if (event.kv().mod_revision() <= seen.revision) continue;  // a list was faster
    ApplyKey(options_, event.kv(), event.type() == etcdserverpb::Event::DELETE, &seen);
    last = std::max(last, event.kv().mod_revision());
  }
  if (last == seen.revision) return;
  seen.revision = last;
  Told(std::move(seen));
}

void Membership::ApplyKey(const MembershipOptions& options, const etcdserverpb::KeyValue& kv, bool deleted, Seen* seen) {
  const std::string prefix = StrCat("/penstock/", options.cluster, "/");
  const std::string key = kv.key().substr(std::min(prefix.size(), kv.key().size()));
  if (key == "view") {
    seen->view.Clear();
    if (!deleted) seen->view.ParseFromString(kv.value());
    seen->view_revision = deleted ? 0 : kv.mod_revision();
  } else if (key.rfind("nodes/", 0) == 0) {
    const std::string id = key.substr(6);
    Key node{.mod_revision = kv.mod_revision()};
    if (deleted || !node.member.ParseFromString(kv.value()) || UuidText(node.member.id()) != id || node.member.id().size() != sizeof(NodeUuid)) seen->nodes.erase(id);
    else seen->nodes[id] = std::move(node);
  }
}

// Newer than what is known, or nothing happens.
void Membership::Told(Seen next) {
  std::lock_guard telling(telling_);
  v1::View before;
  bool new_view = false;
  {
    std::lock_guard lock(mutex_);
    if (next.revision < seen_.revision) return;
    new_view = next.view_revision != seen_.view_revision;
    before = seen_.view;
    seen_ = next;
    const bool differ = Wanted(seen_).has_value();
    if (!differ) differ_since_ = absl::InfinitePast();
    else if (differ_since_ == absl::InfinitePast()) differ_since_ = MonotonicNow();
  }
  changed_.notify_all();
  if (new_view) {
    const std::string change = DescribeChange(before, next.view);
    callbacks_.event(StrCat("cluster ", options_.cluster, ": term ", next.view_revision, ", ", next.view.members_size(), " node(s)",
                            change.empty() ? "" : "; ", change));
    callbacks_.view(next.view, static_cast<uint64_t>(next.view_revision));
  }
  TellServeUntil();
}

// --- the view ---------------------------------------------------------------------------------------------------------------

std::optional<v1::View> Membership::Wanted(const Seen& seen) const {
  std::vector<v1::Member> alive;
  for (const auto& [id, key] : seen.nodes) alive.push_back(key.member);
  return NextView(seen.view, alive, static_cast<uint64_t>(absl::GetCurrentTimeNanos()));
}

absl::Duration Membership::UntilMyTurn() {
  if (differ_since_ == absl::InfinitePast() || seen_.nodes.count(UuidText(self_.id())) == 0) return absl::InfiniteDuration();
  const auto rank = std::distance(seen_.nodes.begin(), seen_.nodes.find(UuidText(self_.id())));
  return differ_since_ + rank * kBetweenProposers - MonotonicNow();
}

// False: etcd has other keys than those that it was made from.
absl::StatusOr<bool> Membership::Propose(const Seen& seen, const v1::View& next) {
  etcdserverpb::TxnRequest txn;
  CompareRevision(&txn, ViewKey(), seen.view_revision);
  for (const v1::Member& member : next.members()) {
    if (const auto it = seen.nodes.find(UuidText(member.id())); it != seen.nodes.end()) CompareRevision(&txn, NodeKey(member.id()), it->second.mod_revision);
  }
  for (const v1::Member& member : seen.view.members()) {
    if (FindMember(next, member.id()) == nullptr) CompareRevision(&txn, NodeKey(member.id()), 0);
  }
  Put(&txn, ViewKey(), next.SerializeAsString());
  const absl::StatusOr<etcdserverpb::TxnResponse> response = client_.Txn(txn, patience_);
  if (!response.ok()) return response.status();
  return response->succeeded();
}

// The term; NOT_FOUND: there is nothing to change.
absl::StatusOr<uint64_t> Membership::Change(const std::function<std::optional<v1::View>(const v1::View&)>& change, const std::string& deleted_key,
                                            absl::Duration patience) {
  const absl::Time deadline = MonotonicNow() + patience;
  absl::Status status = absl::UnavailableError("etcd: the view changes all the time");
  while (MonotonicNow() < deadline) {
    const absl::StatusOr<etcdserverpb::RangeResponse> all = client_.List(prefix_, patience_);
    if (!all.ok()) {
      status = all.status();
      continue;
    }
    Seen seen;
    for (const etcdserverpb::KeyValue& kv : all->kvs()) ApplyKey(options_, kv, false, &seen);
    const std::optional<v1::View> next = change(seen.view);
    if (!next) return absl::NotFoundError("no such node in the view");
    etcdserverpb::TxnRequest txn;
    CompareRevision(&txn, ViewKey(), seen.view_revision);
    Put(&txn, ViewKey(), next->SerializeAsString());
    if (!deleted_key.empty()) txn.add_success()->mutable_request_delete_range()->set_key(deleted_key);
    const absl::StatusOr<etcdserverpb::TxnResponse> response = client_.Txn(txn, patience_);
    if (response.ok() && response->succeeded()) return static_cast<uint64_t>(response->header().revision());
    if (!response.ok()) status = response.status();
  }
  return status;
}

absl::StatusOr<uint64_t> Membership::Forget(const std::string& id) {
  const absl::StatusOr<uint64_t> term = Change([&](const v1::View& view) { return ViewWithoutAbsent(view, id); }, "", kForgetPatience);
  if (absl::IsNotFound(term.status())) return absl::NotFoundError(StrCat("node: ", UuidText(id), " is not absent; `penstock nodes` lists the absent ones"));
  (void)Refresh();
  return term;
}

void Membership::Leave() {
  {
    std::lock_guard telling(telling_);
    callbacks_.serve_until(0);
  }
  if (kept_->lease == 0) return;
  // Both at once: with the key there, the others would make this node a member again; without it, an absent one.
  (void)Change([&](const v1::View& view) { return ViewWithoutMember(view, self_.id()); }, NodeKey(self_.id()), kLeavePatience);
  (void)client_.RevokeLease(std::exchange(kept_->lease, 0), kLeavePatience);
}

}  // namespace penstock::server
