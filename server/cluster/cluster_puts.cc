#include "server/cluster/cluster_puts.h"

#include <condition_variable>
#include <utility>

#include "proto/strcat.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

directory::Conditions ConditionsOf(const v1::CreateSpec& spec) {
  const bool if_absent = spec.has_if_version() && spec.if_version() == 0;
  return {.if_absent = if_absent, .if_version = if_absent ? 0 : spec.if_version(), .version = spec.version()};
}

// The words of Store::CheckConditions.
absl::Status ConflictOf(const v1::CreateSpec& spec, directory::Version present) {
  const directory::Conditions asked = ConditionsOf(spec);
  if (asked.if_absent) {
    return absl::AlreadyExistsError(StrCat("put '", spec.name(), "': it exists (version ", present.number, ") and if_absent was asked for"));
  }
  if (asked.if_version != 0 && asked.if_version != present.number) {
    return absl::AbortedError(StrCat("put '", spec.name(), "': if_version=", asked.if_version, ", but the present version is ", present.number,
                                     present.number == 0 ? " (absent)" : ""));
  }
  return absl::AbortedError(StrCat("put '", spec.name(), "': version=", asked.version, " is not larger than ", present.number, ", the last one of this name"));
}

}  // namespace

void ClusterPuts::Publish(const std::shared_ptr<Session>& session, layout::RecordRef record, uint64_t record_seq, Done done) {
  if (session == nullptr) return done(absl::UnavailableError("the session has ended"));  // and the draft with it
  if (absl::Status s = store_->MayServeNames(); !s.ok()) {
    (void)store_->Abort(*session, record, record_seq);
    return done(s);
  }
  absl::StatusOr<Store::TakenDraft> draft = store_->TakeDraft(*session, record, record_seq);
  if (!draft.ok()) return done(draft.status());
  (void)FinishChecksum(draft->checksum, draft->data, draft->nbytes);  // it is nobody's copy
  Going going{.draft = *std::move(draft), .done = std::move(done)};
  {
    std::lock_guard lock(mutex_);
    const auto [it, first] = waiting_.try_emplace(going.draft.spec.name());
    if (!first) return it->second.push_back(std::move(going));
  }
  Propose(std::move(going));
}

std::vector<absl::StatusOr<Published>> ClusterPuts::PublishNow(const std::shared_ptr<Session>& session, const std::vector<Draft>& drafts) {
  struct Waiting {
    std::mutex mutex;
    std::condition_variable changed;
    size_t open = 0;
    std::vector<absl::StatusOr<Published>> results;
  };
  const auto waiting = std::make_shared<Waiting>();
  waiting->open = drafts.size();
  waiting->results.assign(drafts.size(), absl::UnavailableError("put: it may or may not have been done; look, and try again"));
  for (size_t i = 0; i < drafts.size(); ++i) {
    Publish(session, drafts[i].record, drafts[i].record_seq, [waiting, i](const absl::StatusOr<Published>& published) {
      std::lock_guard lock(waiting->mutex);
      waiting->results[i] = published;
      if (--waiting->open == 0) waiting->changed.notify_all();
    });
  }
  std::unique_lock lock(waiting->mutex);
  waiting->changed.wait_for(lock, absl::ToChronoNanoseconds(kPatience), [&] { return waiting->open == 0; });
  return waiting->results;
}

void ClusterPuts::Propose(Going going) {
  const size_t nodes = directory_->CountSteady();
  if (nodes > 0 && going.draft.spec.replicas() > nodes) {
    store_->DropTaken(going.draft.record);
    going.done(absl::InvalidArgumentError(StrCat("replicas: ", going.draft.spec.replicas(), " asked for, but the cluster has ", nodes, nodes == 1 ? " node" : " nodes",
                                                 " that keep tensors")));
    return Next(going.draft.spec.name());
  }
  const auto shared = std::make_shared<Going>(std::move(going));
  const auto id = std::make_shared<directory::OpId>();
  absl::Status prepared = absl::UnavailableError("this node is stopping");
  const std::string& name = shared->draft.spec.name();
  directory_->Put(
      name, ConditionsOf(shared->draft.spec),
      [&](directory::OpId op, directory::Term view) -> std::optional<directory::PutInfo> {
        *id = op;
        prepared = store_->Prepare(shared->draft.record, {.op = op, .prepared_in = view});
        std::optional<directory::HeldRecord> held;
        if (prepared.ok()) held = store_->FindByOp(name, op);
        if (!held) return std::nullopt;
        if (held->replicas > 1) OfferBytes(name, op);
        return directory::PutInfo{held->nbytes, held->replicas, held->cache, std::move(held->info)};
      },
      [this, shared, id](directory::Outcome outcome, directory::Version version) { Finish(*shared, *id, outcome, version); });
  if (prepared.ok()) return;
  store_->DropTaken(shared->draft.record);
  shared->done(prepared);
  Next(name);
}

void ClusterPuts::OfferBytes(const std::string& name, directory::OpId op) {
  if (offers_ == nullptr) return;
  absl::StatusOr<Store::HeldTensor> held = store_->HoldByOp(name, op);
  if (held.ok()) offers_->Offer(op, *std::move(held));  // else its targets ask for it
}

void ClusterPuts::Finish(const Going& going, directory::OpId op, directory::Outcome outcome, directory::Version version) {
  PENSTOCK_FAULT_POINT("node.cluster.decided");
  if (offers_ != nullptr) offers_->Withdraw(op);
  going.done(ResultOf(going, op, outcome, version));
  Next(going.draft.spec.name());
}

void ClusterPuts::Next(const std::string& name) {
  Going next;
  {
    std::lock_guard lock(mutex_);
    const auto it = waiting_.find(name);
    if (it->second.empty()) {
      waiting_.erase(it);
      return;
    }
    next = std::move(it->second.front());
    it->second.pop_front();
  }
  Propose(std::move(next));
}

absl::StatusOr<Published> ClusterPuts::AwaitEnd(const std::string& name, directory::OpId op) {
  const absl::Time end = MonotonicNow() + kPatience;
  while (MonotonicNow() < end) {
    const uint64_t epoch = store_->change_epoch();
    const std::optional<directory::HeldRecord> held = store_->FindByOp(name, op);
    if (!held || held->state == directory::RecordState::kQuarantined) break;
    if (held->version.number != 0) {
      if (std::optional<Published> published = store_->PublishedByOp(name, op)) return *published;
    }
    store_->WaitForChange(epoch, absl::Milliseconds(100));
  }
  return absl::UnavailableError(StrCat("put '", name, "': this node was restarted in the middle of it; it may or may not have been done: look, and try again"));
}

absl::StatusOr<Published> ClusterPuts::ResultOf(const Going& going, directory::OpId op, directory::Outcome outcome, directory::Version version) const {
  const v1::CreateSpec& spec = going.draft.spec;
  switch (outcome) {
    case directory::Outcome::kCommitted: break;
    case directory::Outcome::kConflict: return ConflictOf(spec, version);
    case directory::Outcome::kNotFound:
    case directory::Outcome::kAborted: return absl::UnavailableError(StrCat("put '", spec.name(), "': nothing was done; try again"));
    case directory::Outcome::kAmbiguous:
    case directory::Outcome::kElsewhere:
      return absl::UnavailableError(StrCat("put '", spec.name(), "': it may or may not have been done, and is overwritten if it was; look, and try again"));
  }
  if (std::optional<Published> here = store_->PublishedByOp(spec.name(), op)) return *here;
  // Somebody has overwritten it already.
  return Published{.version_term = static_cast<uint32_t>(version.term), .version_number = version.number};
}

}  // namespace penstock::server
