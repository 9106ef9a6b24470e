// What is in etcd, as this node sees it, and the views that it proposes. The lease is kept in membership.cc.
#include "absl/time/clock.h"
#include "proto/strcat.h"
#include "proto/uuid_text.h"
#include "server/membership/cluster_view.h"
#include "server/membership/membership.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kRetryWatch = absl::Milliseconds(200);
constexpr absl::Duration kRetryChange = absl::Milliseconds(50);
constexpr absl::Duration kChangePatience = absl::Seconds(5);
constexpr absl::Duration kLeavePatience = absl::Seconds(1);

}  // namespace

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
      status = watching_.Run(watched_, from, [this](const etcdserverpb::WatchResponse& response) { Apply(response); });
    }
    std::unique_lock lock(mutex_);
    if (stopping_) return;
    if (absl::IsOutOfRange(status)) continue;  // all is read anew
    if (changed_.wait_for(lock, absl::ToChronoNanoseconds(kRetryWatch), [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; })) return;
  }
}

absl::Status Membership::Refresh() {
  int64_t known = 0;
  {
    std::lock_guard lock(mutex_);
    known = seen_.revision;
  }
  const absl::StatusOr<etcdserverpb::RangeResponse> all = client_.List(watched_, patience_);
  if (!all.ok()) return all.status();
  Seen seen{.revision = all->header().revision()};
  for (const etcdserverpb::KeyValue& kv : all->kvs()) ApplyKey(options_, kv, false, &seen);
  const bool anew = seen.revision < known;
  Told(std::move(seen), anew);
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
  Told(std::move(seen), false);
}

// What is not Penstock's counts as not there.
void Membership::ApplyKey(const MembershipOptions& options, const etcdserverpb::KeyValue& kv, bool deleted, Seen* seen) {
  const std::string prefix = StrCat("/penstock/", options.cluster, "/");
  const std::string key = kv.key().substr(std::min(prefix.size(), kv.key().size()));
  if (key == "view") {
    seen->view.Clear();
    if (!deleted && !seen->view.ParseFromString(kv.value())) seen->view.Clear();
    seen->view_revision = deleted ? 0 : kv.mod_revision();
  } else if (key.rfind("nodes/", 0) == 0) {
    const std::string id = key.substr(6);
    Key node{.member = {}, .mod_revision = kv.mod_revision()};
    const bool good = !deleted && node.member.ParseFromString(kv.value()) && UuidText(node.member.id()) == id &&
                      node.member.id().size() == sizeof(NodeUuid) && node.member.lease() == kv.lease();
    if (good) seen->nodes[id] = std::move(node);
    else seen->nodes.erase(id);
  }
}

// Newer than what is known, or nothing happens.
void Membership::Told(Seen next, bool anew) {
  std::lock_guard telling(telling_);
  v1::View before;
  bool new_view = false;
  {
    std::lock_guard lock(mutex_);
    if (next.revision < seen_.revision && !anew) return;
    new_view = next.view_revision != seen_.view_revision || next.view.cluster_id() != seen_.view.cluster_id();
    before = seen_.view;
    seen_ = next;
    if (next.view.cluster_id() != 0 && (next.view.cluster_id() != last_cluster_id_ || next.view.number() > last_number_)) {
      last_cluster_id_ = next.view.cluster_id();
      last_number_ = next.view.number();
    }
    const bool differ = Wanted(seen_).has_value();
    if (!differ) differ_since_ = absl::InfinitePast();
    else if (differ_since_ == absl::InfinitePast()) differ_since_ = MonotonicNow();
  }
  changed_.notify_all();
  if (anew) callbacks_.event("etcd has lost what it knew: its data is new, or old");
  if (new_view) {
    const std::string change = DescribeChange(before, next.view);
    callbacks_.event(StrCat("cluster ", options_.cluster, ": term ", next.view.number(), ", ", next.view.members_size(), " node(s)",
                            change.empty() ? "" : "; ", change));
    callbacks_.view(next.view, next.view_revision);
  }
  TellServeUntil(new_view);
}

// --- the view ---------------------------------------------------------------------------------------------------------------

std::vector<v1::Member> Membership::Alive(const Seen& seen) {
  std::vector<v1::Member> alive;
  for (const auto& [id, key] : seen.nodes) alive.push_back(key.member);
  return alive;
}

std::optional<v1::View> Membership::Wanted(const Seen& seen) const {
  v1::View view = seen.view;
  // A number is given once in a cluster. One that has gone back (etcd was restored from a copy) is of another cluster.
  if (view.cluster_id() == last_cluster_id_ && view.number() < last_number_) view.clear_cluster_id();
  return NextView(view, Alive(seen), static_cast<uint64_t>(absl::GetCurrentTimeNanos()), RandomWord());
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
  PutOnSuccess(&txn, ViewKey(), next.SerializeAsString());
  const absl::StatusOr<etcdserverpb::TxnResponse> response = client_.Txn(txn, patience_);
  if (!response.ok()) return response.status();
  return response->succeeded();
}

// The term of the view that `change` makes, or that it finds as it should be. NOT_FOUND: it cannot be made.
absl::StatusOr<uint64_t> Membership::Change(const std::function<std::optional<v1::View>(const v1::View&)>& change, const std::string& deleted_key,
                                            absl::Duration patience) {
  const absl::Time deadline = MonotonicNow() + patience;
  absl::Status status = absl::UnavailableError("etcd: the view changes all the time");
  while (MonotonicNow() < deadline) {
    const absl::StatusOr<etcdserverpb::RangeResponse> all = client_.List(watched_, patience_);
    if (!all.ok()) {
      status = all.status();
      absl::SleepFor(kRetryChange);
      continue;
    }
    Seen seen;
    for (const etcdserverpb::KeyValue& kv : all->kvs()) ApplyKey(options_, kv, false, &seen);
    const std::optional<v1::View> next = change(seen.view);
    if (!next) return absl::NotFoundError("no such node in the view");
    if (next->number() == seen.view.number()) return next->number();
    etcdserverpb::TxnRequest txn;
    CompareRevision(&txn, ViewKey(), seen.view_revision);
    PutOnSuccess(&txn, ViewKey(), next->SerializeAsString());
    if (!deleted_key.empty()) txn.add_success()->mutable_request_delete_range()->set_key(deleted_key);
    const absl::StatusOr<etcdserverpb::TxnResponse> response = client_.Txn(txn, patience_);
    if (response.ok() && response->succeeded()) return next->number();
    if (!response.ok()) status = response.status();
  }
  return status;
}

absl::StatusOr<uint64_t> Membership::Forget(const std::string& id) {
  bool tried = false;  // it is gone because this call has done it, whose answer was lost
  const auto change = [&](const v1::View& view) {
    const std::optional<v1::View> next = ViewWithoutAbsent(view, id);
    return std::exchange(tried, true) && !next ? std::optional(view) : next;
  };
  const absl::StatusOr<uint64_t> term = Change(change, "", kChangePatience);
  if (absl::IsNotFound(term.status())) return absl::NotFoundError(StrCat("node: ", UuidText(id), " is not absent; `penstock nodes` lists the absent ones"));
  (void)Refresh();
  return term;
}

absl::StatusOr<uint64_t> Membership::SetDraining(const std::string& id, bool draining) {
  const absl::StatusOr<uint64_t> term = Change([&](const v1::View& view) { return ViewWithDraining(view, id, draining); }, "", kChangePatience);
  if (absl::IsNotFound(term.status())) return absl::NotFoundError(StrCat("node: ", UuidText(id), " is no member; `penstock nodes` lists the members"));
  (void)Refresh();
  return term;
}

void Membership::Leave() {
  {
    std::lock_guard telling(telling_);
    callbacks_.serve_until(0, 0);
  }
  if (kept_->lease == 0) return;
  // Both at once: with the key there, the others would make this node a member again; without it, an absent one.
  (void)Change([&](const v1::View& view) { return ViewWithoutMember(view, self_.id()); }, NodeKey(self_.id()), kLeavePatience);
  (void)client_.RevokeLease(std::exchange(kept_->lease, 0), kLeavePatience);
}

}  // namespace penstock::server
