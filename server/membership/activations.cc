#include "server/membership/activations.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "proto/strcat.h"
#include "server/membership/cluster_view.h"
#include "server/membership/directory_view.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr int kActivateAttempts = 3;  // each but the first because a key was changed by somebody else

std::string KeyOf(directory::NodeId node) { return absl::StrFormat("%016x", node); }

// The node whose key it is; 0: none.
directory::NodeId OwnerOf(const etcdserverpb::KeyValue& kv, size_t prefix_bytes) {
  const std::string text = kv.key().substr(std::min(prefix_bytes, kv.key().size()));
  directory::NodeId node = 0;
  return absl::SimpleHexAtoi(text, &node) && KeyOf(node) == text ? node : 0;
}

bool IsIn(const v1::View& view, directory::NodeId node) {
  return std::any_of(view.members().begin(), view.members().end(), [node](const v1::Member& member) { return DirectoryIdOf(member) == node; }) ||
         std::any_of(view.absent().begin(), view.absent().end(), [node](const v1::View::Absent& one) { return DirectoryIdOf(one.member()) == node; });
}

}  // namespace

Activations::Activations(const Options& options, Callbacks callbacks)
    : options_(options), prefix_(StrCat("/penstock/", options.cluster, "/active/")), own_key_(prefix_ + KeyOf(options.node)),
      view_key_(StrCat("/penstock/", options.cluster, "/view")), callbacks_(std::move(callbacks)), client_(options.etcd, options.access) {
  thread_ = std::thread([this] { Run(); });
}

void Activations::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Activations::OnView(const v1::View& view, int64_t revision) {
  if (view.cluster_id() == 0) return;  // there is none
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    if (cluster_id_ == 0) cluster_id_ = view.cluster_id();
    stopping_ = view.cluster_id() != cluster_id_;
    if (!stopping_ && view.number() >= known_.view.number()) known_ = {view, revision};
    if (IsSweeper(known_.view)) sweep_at_ = std::min(sweep_at_, MonotonicNow() + options_.sweep_every);
  }
  changed_.notify_all();
}

void Activations::Read(directory::Term view) {
  {
    std::lock_guard lock(mutex_);
    read_ = view;
  }
  changed_.notify_all();
}

void Activations::Activate(directory::Term view, std::vector<directory::ActivatePartition> partitions) {
  {
    std::lock_guard lock(mutex_);
    requests_.push_back({view, std::move(partitions)});
  }
  changed_.notify_all();
}

bool Activations::HasWork() const {
  return cluster_id_ != 0 && (!requests_.empty() || read_.has_value() || MonotonicNow() >= sweep_at_);
}

void Activations::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    while (!stopping_ && !HasWork()) {
      const absl::Duration wait = std::min(sweep_at_ - MonotonicNow(), absl::Hours(1));
      changed_.wait_for(lock, absl::ToChronoNanoseconds(std::max(wait, absl::Milliseconds(1))));
    }
    if (stopping_) return;
    const KnownView known = known_;
    const std::optional<directory::Term> read = std::exchange(read_, std::nullopt);
    std::optional<Request> request;
    if (!requests_.empty()) {
      request = std::move(requests_.front());
      requests_.pop_front();
    }
    const bool sweep = MonotonicNow() >= sweep_at_;
    if (sweep) sweep_at_ = absl::InfiniteFuture();
    lock.unlock();
    if (request) {
      const Outcome outcome = TryActivate(*request, known);
      bool stopped = false;
      {
        std::lock_guard again(mutex_);
        stopped = stopping_;
      }
      if (!stopped) callbacks_.activated(request->view, outcome == Outcome::kDone, outcome == Outcome::kUnknown);
    }
    if (read) ReadAll(*read);
    if (sweep) Sweep(known);
    lock.lock();
  }
}

// --- this node's key --------------------------------------------------------------------------------------------------------

Activations::Own Activations::OwnFrom(const etcdserverpb::RangeResponse& response) const {
  if (response.kvs().empty()) return {ActiveMap(options_.partition_count), 0};
  const etcdserverpb::KeyValue& kv = response.kvs(0);
  return {ActiveMap::Parse(kv.value(), cluster_id_, options_.partition_count), kv.mod_revision()};
}

bool Activations::FetchOwn() {
  const absl::StatusOr<etcdserverpb::RangeResponse> response = client_.List({own_key_, own_key_ + '\0'}, options_.patience);
  Note(response.status());
  if (response.ok()) own_ = OwnFrom(*response);
  return response.ok();
}

Activations::Outcome Activations::TryActivate(const Request& request, KnownView known) {
  if (request.view > known.view.number()) return Outcome::kUnknown;  // its revision will be told
  for (int attempt = 0; attempt < kActivateAttempts; ++attempt) {
    if (!own_ && !FetchOwn()) return Outcome::kUnknown;
    if (own_->map.Has(request.view, request.partitions)) return Outcome::kDone;  // the answer was lost
    if (request.view != known.view.number()) return Outcome::kOtherView;
    ActiveMap next = own_->map;
    next.Add(request.view, request.partitions);
    etcdserverpb::TxnRequest txn;
    CompareRevision(&txn, view_key_, known.revision);
    CompareRevision(&txn, own_key_, own_->revision);
    PutOnSuccess(&txn, own_key_, next.Serialize(cluster_id_));
    txn.add_failure()->mutable_request_range()->set_key(own_key_);
    txn.add_failure()->mutable_request_range()->set_key(view_key_);
    own_.reset();
    const absl::StatusOr<etcdserverpb::TxnResponse> response = client_.Txn(txn, options_.patience);
    Note(response.status());
    if (!response.ok()) return Outcome::kUnknown;
    if (response->succeeded()) {
      own_ = Own{std::move(next), response->header().revision()};
      return Outcome::kDone;
    }
    if (response->responses_size() != 2) return Outcome::kUnknown;
    own_ = OwnFrom(response->responses(0).response_range());
    // The view is another one, or has been written again as it was.
    known = {};
    for (const etcdserverpb::KeyValue& kv : response->responses(1).response_range().kvs()) {
      if (!known.view.ParseFromString(kv.value()) || known.view.cluster_id() != cluster_id_) known.view.Clear();
      known.revision = kv.mod_revision();
    }
  }
  return Outcome::kUnknown;
}

// --- everybody's keys -------------------------------------------------------------------------------------------------------

void Activations::ReadAll(directory::Term view) {
  const absl::StatusOr<etcdserverpb::RangeResponse> all = client_.List(WithPrefix(prefix_), options_.patience);
  Note(all.status());
  if (!all.ok()) return;
  std::vector<directory::Activation> last(options_.partition_count);
  for (const etcdserverpb::KeyValue& kv : all->kvs()) {
    const directory::NodeId home = OwnerOf(kv, prefix_.size());
    if (home != 0) ActiveMap::Parse(kv.value(), cluster_id_, options_.partition_count).MergeInto(home, &last);
  }
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
  }
  callbacks_.read(view, last);
}

bool Activations::IsSweeper(const v1::View& view) const {
  return std::all_of(view.members().begin(), view.members().end(), [&](const v1::Member& member) { return member.id() >= options_.self; }) &&
         FindMember(view, options_.self) != nullptr;
}

// Everything is judged by one revision of the keys; later ones only add larger terms.
void Activations::Sweep(const KnownView& known) {
  const absl::StatusOr<etcdserverpb::RangeResponse> all = client_.List(WithPrefix(prefix_), options_.patience);
  Note(all.status());
  std::vector<directory::Activation> last(options_.partition_count);
  std::vector<std::pair<const etcdserverpb::KeyValue*, ActiveMap>> gone;
  if (all.ok()) {
    for (const etcdserverpb::KeyValue& kv : all->kvs()) {
      const directory::NodeId owner = OwnerOf(kv, prefix_.size());
      if (owner == 0) continue;
      ActiveMap map = ActiveMap::Parse(kv.value(), cluster_id_, options_.partition_count);
      map.MergeInto(owner, &last);
      if (!IsIn(known.view, owner)) gone.emplace_back(&kv, std::move(map));
    }
  }
  bool left = !all.ok();
  for (const auto& [kv, map] : gone) left |= map.IsLastAnywhere(last) || !RemoveKey(known, *kv);
  if (!left) return;
  std::lock_guard lock(mutex_);
  if (IsSweeper(known_.view)) sweep_at_ = MonotonicNow() + options_.sweep_every;
}

// False: it, or the view, has changed, or nobody knows.
bool Activations::RemoveKey(const KnownView& known, const etcdserverpb::KeyValue& kv) {
  etcdserverpb::TxnRequest txn;
  CompareRevision(&txn, view_key_, known.revision);
  CompareRevision(&txn, kv.key(), kv.mod_revision());
  txn.add_success()->mutable_request_delete_range()->set_key(kv.key());
  const absl::StatusOr<etcdserverpb::TxnResponse> response = client_.Txn(txn, options_.patience);
  Note(response.status());
  return response.ok() && response->succeeded();
}

// That etcd does not answer, membership tells; here, what etcd refuses.
void Activations::Note(const absl::Status& status) {
  const bool refused = !status.ok() && !absl::IsUnavailable(status);
  if (refused && status != trouble_) callbacks_.event(StrCat("activations of the directory's partitions: ", std::string(status.message())));
  if (refused || status.ok()) trouble_ = status;
}

}  // namespace penstock::server
