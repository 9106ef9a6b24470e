#include "server/cluster/cluster_directory.h"

#include <algorithm>
#include <memory>

#include "proto/strcat.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kTick = absl::Milliseconds(10);
constexpr absl::Duration kSettles = absl::Seconds(5);  // a node that came back has said what it has

directory::Time Now() { return MonotonicNanos(); }

}  // namespace

ClusterDirectory::ClusterDirectory(const directory::Config& config, directory::Records* records, directory::Tables* tables, World world)
    : world_(std::move(world)), config_(config), records_(records), tables_(tables), ticking_([this] { Tick(); }) {}

void ClusterDirectory::Stop() {
  std::vector<std::function<void()>> finished;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    for (auto& [op, done] : operations_) {
      finished_.push_back([done = std::move(done)] { done(directory::Outcome::kElsewhere, {}); });
    }
    operations_.clear();
    for (auto& [ticket, lookup] : lookups_) {
      finished_.push_back([found = std::move(lookup.found)] { found({}, absl::InfinitePast()); });
    }
    lookups_.clear();
    finished.swap(finished_);
  }
  changed_.notify_all();
  TellFinished(&finished);
  if (ticking_.joinable()) ticking_.join();
}

template <typename Act>
void ClusterDirectory::Event(Act act, const directory::View* first) {
  std::vector<std::function<void()>> finished;
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    if (!node_ && first != nullptr) node_.emplace(config_, static_cast<directory::Environment&>(*this), *records_, tables_);
    if (!node_) return;
    act(*node_);
    finished.swap(finished_);
  }
  TellFinished(&finished);
}

void ClusterDirectory::TellFinished(std::vector<std::function<void()>>* finished) {
  for (const std::function<void()>& tell : *finished) tell();
}

void ClusterDirectory::Tick() {
  absl::Time overdue_at = MonotonicNow();
  while (true) {
    {
      std::unique_lock lock(mutex_);
      const bool stopping = changed_.wait_for(lock, absl::ToChronoNanoseconds(kTick), [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; });
      if (stopping) return;
    }
    const bool look = MonotonicNow() >= overdue_at;
    if (look) overdue_at = MonotonicNow() + kOverdueEvery;
    Event([&](Node& node) {
      node.Tick(Now());
      if (look) EndOverdueLookups();
    });
  }
}

// The core goes on asking; its answer finds nobody.
void ClusterDirectory::EndOverdueLookups() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  const absl::Time now = MonotonicNow();
  absl::erase_if(lookups_, [&](auto& entry) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (now < entry.second.deadline) return false;
    finished_.push_back([found = std::move(entry.second.found)] { found({}, absl::InfinitePast()); });
    return true;
  });
}

// ---- the world ----

void ClusterDirectory::OnView(const directory::View& view) {
  Event([&](Node& node) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    for (const directory::Member& member : view.members) {
      if (!node.view().Has(member.id) || node.view().Find(member.id)->since != member.since) joined_at_ = MonotonicNow();
    }
    // A process that follows another one within its lease: what that one was allowed goes on.
    const directory::Member* me = view.Find(config_.self);
    const bool was_away = me == nullptr || me->since > records_->since();
    node.OnView(Now(), view);
    if (was_away) world_.serve_until(0);  // until there is a lease of this view
  }, &view);
}

void ClusterDirectory::OnLease(uint64_t lease, directory::Time serve_until) {
  Event([&](Node& node) {
    if (serve_until != 0) node.OnLease(Now(), lease, serve_until);
    world_.serve_until(serve_until == 0 ? 0 : node.serve_until());
  });
}

void ClusterDirectory::OnMessages(directory::NodeId from, std::vector<directory::Message> messages) {
  Event([&](Node& node) {
    for (directory::Message& message : messages) node.OnMessage(Now(), from, std::move(message));
  });
}

void ClusterDirectory::OnActivations(directory::Term view, const std::vector<directory::Activation>& by_partition) {
  Event([&](Node& node) { node.OnActivations(Now(), view, by_partition); });
}

void ClusterDirectory::OnActivated(directory::Term view, bool ok, bool retry) {
  Event([&](Node& node) { node.OnActivated(Now(), view, ok, retry); });
}

void ClusterDirectory::OnFetched(const std::string& name, directory::OpId op, bool ok) {
  Event([&](Node& node) { node.OnFetched(Now(), name, op, ok); });
}

void ClusterDirectory::TellLoad(const directory::NodeLoad& load) {
  Event([&](Node& node) { node.TellLoad(Now(), load); });
}

// ---- local clients ----

bool ClusterDirectory::Put(std::string name, directory::Conditions conditions, const Prepare& prepare, Done done) {
  bool prepared = false;
  Event([&](Node& node) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const directory::OpId op = node.NextOp();
    std::optional<directory::PutInfo> info = prepare(op, node.view().term);
    prepared = info.has_value();
    if (!prepared) return node.Abandon(op);
    operations_[op] = std::move(done);
    node.Put(Now(), op, {std::move(name), conditions, *std::move(info)});
  });
  return prepared;
}

void ClusterDirectory::Delete(std::string name, directory::Conditions conditions, Done done) {
  bool begun = false;
  Event([&](Node& node) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    begun = true;
    const directory::OpId op = node.NextOp();
    operations_[op] = std::move(done);
    node.Delete(Now(), op, std::move(name), conditions);
  });
  if (!begun) done(directory::Outcome::kElsewhere, {});
}

void ClusterDirectory::Lookup(const std::vector<std::string>& names, bool lease, absl::Time deadline, Found found) {
  bool begun = false;
  Event([&](Node& node) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    begun = true;
    const uint64_t ticket = ++last_ticket_;
    lookups_[ticket] = {std::move(found), deadline};
    node.Lookup(Now(), ticket, names, lease);
  });
  if (!begun) found({}, absl::InfinitePast());
}

std::optional<ClusterDirectory::LookedUp> ClusterDirectory::LookupNow(const std::vector<std::string>& names, bool lease, absl::Time deadline) {
  // Whoever comes last, the answers or the deadline, finds it still there.
  struct Waiting {
    std::mutex mutex;
    std::condition_variable changed;
    size_t open = 0;
    bool stopped = false;
    LookedUp found{{}, absl::InfiniteFuture()};
  };
  const auto waiting = std::make_shared<Waiting>();
  waiting->found.results.resize(names.size());
  waiting->open = (names.size() + kLookupNames - 1) / kLookupNames;
  for (size_t begin = 0; begin < names.size(); begin += kLookupNames) {
    const size_t end = std::min(begin + kLookupNames, names.size());
    const std::vector<std::string> part(names.begin() + static_cast<int64_t>(begin), names.begin() + static_cast<int64_t>(end));
    Lookup(part, lease, deadline, [waiting, begin](std::vector<directory::LookupResult> results, absl::Time lease_until) {
      std::lock_guard lock(waiting->mutex);
      waiting->stopped |= results.empty();
      std::move(results.begin(), results.end(), waiting->found.results.begin() + static_cast<int64_t>(begin));
      waiting->found.lease_until = std::min(waiting->found.lease_until, lease_until);
      if (--waiting->open == 0) waiting->changed.notify_all();
    });
  }
  std::unique_lock lock(waiting->mutex);
  const auto patience = absl::ToChronoNanoseconds(std::max(deadline - MonotonicNow(), absl::ZeroDuration()));
  const bool answered = waiting->changed.wait_for(lock, patience, [&] { return waiting->open == 0; });
  if (!answered || waiting->stopped) return std::nullopt;
  return std::move(waiting->found);
}

std::optional<directory::MoveAnswer> ClusterDirectory::MoveNow(const std::string& name, directory::NodeId to, bool copy, absl::Time deadline) {
  // As LookupNow.
  struct Waiting {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<directory::MoveAnswer> answer;
  };
  const auto waiting = std::make_shared<Waiting>();
  Event([&](Node& node) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const uint64_t ticket = ++last_ticket_;
    moves_[ticket] = [waiting](const directory::MoveAnswer& answer) {
      std::lock_guard lock(waiting->mutex);
      waiting->answer = answer;
      waiting->changed.notify_all();
    };
    node.MoveTensor(Now(), ticket, name, to, copy);
  });
  std::unique_lock lock(waiting->mutex);
  const auto patience = absl::ToChronoNanoseconds(std::max(deadline - MonotonicNow(), absl::ZeroDuration()));
  waiting->changed.wait_for(lock, patience, [&] { return waiting->answer.has_value(); });
  return waiting->answer;
}

void ClusterDirectory::Evict(std::string_view name, directory::OpId op) {
  Event([&](Node& node) { node.Evict(Now(), name, op); });
}

void ClusterDirectory::LeaveDamaged(std::string_view name, directory::OpId op) {
  Event([&](Node& node) { node.LeaveDamaged(Now(), name, op); });
}

std::optional<std::vector<directory::ListedName>> ClusterDirectory::List(std::string_view prefix, std::string_view after, size_t limit) {
  std::lock_guard lock(mutex_);
  if (!node_) return std::nullopt;
  return node_->List(Now(), prefix, after, limit);
}

directory::DirectoryStats ClusterDirectory::Stats() {
  std::lock_guard lock(mutex_);
  return node_ ? node_->Stats() : directory::DirectoryStats{};
}

directory::DirectoryStats ClusterDirectory::Counts() {
  std::lock_guard lock(mutex_);
  return node_ ? node_->Counts() : directory::DirectoryStats{};
}

directory::Term ClusterDirectory::term() {
  std::lock_guard lock(mutex_);
  return node_ ? node_->view().term : 0;
}

size_t ClusterDirectory::CountSteady() {
  std::lock_guard lock(mutex_);
  return node_ ? node_->view().CountSteady() : 0;
}

absl::Status ClusterDirectory::Lost(std::string_view what) {
  std::lock_guard lock(mutex_);
  if (!node_ || MonotonicNow() < joined_at_ + kSettles) {
    return absl::UnavailableError(StrCat(what, ": a node has just joined, and what it has is not known yet; try again"));
  }
  if (node_->view().absent.empty()) {
    return absl::DataLossError(StrCat(what, ": every node that had it is gone for good; delete it, or put it again"));
  }
  std::string nodes;
  for (const directory::NodeId node : node_->view().absent) nodes += StrCat(nodes.empty() ? "" : ", ", world_.name_of(node));
  return absl::UnavailableError(StrCat(what, ": every node that had it is absent (", nodes, "): it comes back with it, or `penstock nodes --forget NODE` gives it up"));
}

// ---- Environment: with the lock held ----

void ClusterDirectory::Send(directory::NodeId to, directory::Message message) { world_.send(to, std::move(message)); }

void ClusterDirectory::ReadActivations(directory::Term view) { world_.read_activations(view); }

void ClusterDirectory::Activate(directory::Term view, const std::vector<directory::ActivatePartition>& partitions) {
  world_.activate(view, partitions);
}

void ClusterDirectory::FinishOperation(directory::OpId op, directory::Outcome outcome, directory::Version version) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  const auto it = operations_.find(op);
  if (it == operations_.end()) return;  // of a put that this process only repeats the end of
  finished_.push_back([done = std::move(it->second), outcome, version] { done(outcome, version); });
  operations_.erase(it);
}

void ClusterDirectory::FinishLookup(uint64_t ticket, const std::vector<directory::LookupResult>& results,
                                    directory::Time lease_until) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  const auto it = lookups_.find(ticket);
  if (it == lookups_.end()) return;
  const absl::Time until = lease_until == 0 ? absl::InfinitePast() : absl::FromUnixNanos(lease_until);
  finished_.push_back([found = std::move(it->second.found), results, until]() mutable { found(std::move(results), until); });
  lookups_.erase(it);
}

void ClusterDirectory::FinishMove(uint64_t ticket, const directory::MoveAnswer& answer) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  const auto it = moves_.find(ticket);
  if (it == moves_.end()) return;
  finished_.push_back([done = std::move(it->second), answer] { done(answer); });
  moves_.erase(it);
}

void ClusterDirectory::Fetch(const directory::Pull& pull) { world_.fetch(pull); }
void ClusterDirectory::RecallCopy(std::string_view name) { world_.recall_copy(name); }
void ClusterDirectory::OnNameEvent(const directory::NameEvent& event) { world_.name_event(event); }
void ClusterDirectory::OnHistoryLost(directory::Partition partition) { world_.history_lost(partition); }

}  // namespace penstock::server
