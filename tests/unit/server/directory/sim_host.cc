#include "tests/unit/server/directory/sim_host.h"

#include <algorithm>

#include "tests/unit/server/directory/sim_cluster.h"

namespace penstock::server::directory {

// ---- SimRecords ----

std::optional<HeldRecord> SimRecords::Find(std::string_view name, OpId op) const {
  auto it = records_.find({std::string(name), op});
  if (it == records_.end()) return std::nullopt;
  return it->second;
}

std::optional<HeldRecord> SimRecords::FindLive(std::string_view name) const {
  for (auto it = records_.lower_bound({std::string(name), OpId{}}); it != records_.end() && it->first.first == name; ++it) {
    if (it->second.state == RecordState::kLive) return it->second;
  }
  return std::nullopt;
}

void SimRecords::SetState(std::string_view name, OpId op, RecordState state, Version version) {
  auto it = records_.find({std::string(name), op});
  if (it == records_.end()) return;
  it->second.state = state;
  it->second.version = version;
}

std::vector<HeldRecord> SimRecords::List(Partition partition, std::string_view after, size_t limit) const {
  std::vector<HeldRecord> list;
  for (const auto& [key, record] : records_) {
    if (record.name <= after || PartitionOf(record.name, partition_count_) != partition) continue;
    if (list.size() >= limit && list.back().name != record.name) break;
    list.push_back(record);
  }
  return list;
}

void SimRecords::ForEach(const std::function<void(const HeldRecord&)>& visit) const {
  for (const auto& [key, record] : records_) visit(record);
}

// ---- life ----

SimHost::SimHost(SimCluster& cluster, int number)
    : cluster_(cluster), number_(number), clock_offset_(cluster.world().random.Between(kSecond, 1'000'000 * kSecond)) {}

Time SimHost::Clock() const { return cluster_.world().now() + clock_offset_; }

void SimHost::Boot() {
  id_ = cluster_.NewId();
  records_ = std::make_unique<SimRecords>(cluster_.options().partition_count);
  tables_ = std::make_unique<SimTables>();
  serve_until_ = 0;
  StartProcess();
}

void SimHost::StartProcess() {
  session_ = cluster_.NewId();
  paused_until_ = 0;
  lease_ = 0;
  registering_ = false;
  Config config = cluster_.NodeConfig();
  config.self = id_;
  config.session = session_;
  node_ = std::make_unique<DirectoryNode>(config, *this, *records_, tables_.get());
  InProcess(0, [this] {
    Register();
    KeepTicking();
    KeepLease();
  });
}

void SimHost::KillProcess() {
  node_.reset();
  copies_.clear();
  operations_.clear();
  lookups_.clear();
  session_ = 0;
}

void SimHost::CrashHost() {
  if (node_) KillProcess();
  cluster_.NoteLoss(*this);
  records_.reset();
  tables_.reset();
  replaces_.push_back(id_);
  draining_ = false;
}

void SimHost::SetDraining(bool draining) {
  draining_ = draining;
  const NodeId id = id_;
  CallEtcd([this, id, draining] { cluster_.etcd().SetDraining(id, draining); }, [](bool) {});
}

void SimHost::InProcess(Time delay, std::function<void()> what) {
  cluster_.world().After(delay, [this, session = session_, what = std::move(what)]() mutable {
    if (session == 0 || session != session_) return;
    if (cluster_.world().now() < paused_until_) {
      return InProcess(paused_until_ - cluster_.world().now(), std::move(what));
    }
    what();
    AfterEvent();
  });
}

void SimHost::AfterEvent() {
  if (node_ && node_->view().Find(id_)) serve_until_ = node_->serve_until();
}

void SimHost::KeepTicking() {
  if (cluster_.world().random.Chance(0.1)) TellLoad();
  node_->Tick(Clock());
  InProcess(cluster_.world().random.Between(15, 25) * kMillisecond, [this] { KeepTicking(); });
}

// Room for 40 tensors, of one byte each.
void SimHost::TellLoad() {
  uint64_t count = 0;
  records_->ForEach([&](const HeldRecord&) { ++count; });
  node_->TellLoad(Clock(), {.free_bytes = 40 - std::min<uint64_t>(40, count), .total_bytes = 40, .busy = 0});
}

void SimHost::Receive(NodeId from, Message message) {
  InProcess(0, [this, from, message = std::move(message)] { node_->OnMessage(Clock(), from, message); });
}

// ---- etcd ----

void SimHost::CallEtcd(std::function<void()> at_etcd, std::function<void(bool known)> answer) {
  SimWorld& world = cluster_.world();
  auto answered = std::make_shared<bool>(false);
  InProcess(kSecond, [answered, answer] {
    if (!*answered) answer(false);
    *answered = true;
  });
  world.After(cluster_.Delay(), [this, session = session_, at_etcd, answer, answered] {
    if (!cluster_.EtcdOpen(number_)) return;
    at_etcd();
    if (session != session_) return;
    const Time back = cluster_.Delay();
    if (cluster_.world().random.Chance(0.01)) return;  // the answer is lost
    InProcess(back, [this, answer, answered] {
      if (!*answered && cluster_.EtcdOpen(number_)) {
        *answered = true;
        answer(true);
      }
    });
  });
}

void SimHost::Register() {
  if (registering_) return;
  registering_ = true;
  auto lease = std::make_shared<uint64_t>(0);
  SimEtcd::MemberKey key{0, session_, draining_, "host" + std::to_string(number_), replaces_};
  CallEtcd([this, id = id_, key, lease] { *lease = cluster_.etcd().Register(id, key); },
           [this, lease](bool known) {
             registering_ = false;
             if (!known) return Register();
             lease_ = *lease;
           });
}

void SimHost::KeepLease() {
  InProcess(cluster_.world().random.Between(300, 700) * kMillisecond, [this] { KeepLease(); });
  const uint64_t lease = lease_;
  if (lease == 0) return;
  const Time sent = Clock();
  auto alive = std::make_shared<bool>(false);
  auto view = std::make_shared<View>();
  CallEtcd(
      [this, id = id_, lease, alive, view] {
        *alive = cluster_.etcd().KeepAlive(id, lease);
        *view = cluster_.etcd().view();
      },
      [this, lease, alive, view, sent](bool known) {
        if (!known) return;
        if (*alive) {
          constexpr Time kMargin = 100 * kMillisecond;
          node_->OnLease(Clock(), lease, sent + SimEtcd::kTtl - kMargin);
          // The watch may have missed one.
          if (cluster_.world().random.Chance(0.5)) OnViewNews(*view);
          Reconcile();
        } else if (lease == lease_) {
          lease_ = 0;
          Register();
        }
      });
}

void SimHost::OnViewNews(const View& view) {
  if (view.term != 0) node_->OnView(Clock(), view);
}

void SimHost::Reconcile() {
  auto wanted = std::make_shared<View>();
  auto differs = std::make_shared<bool>(false);
  CallEtcd(
      [this, wanted, differs] {
        *wanted = cluster_.etcd().Wanted();
        *differs = !SimEtcd::Same(*wanted, cluster_.etcd().view());
      },
      [this, wanted, differs](bool known) {
        if (!known || !*differs) return;
        CallEtcd([this, wanted] { cluster_.etcd().SwapView(*wanted); }, [](bool) {});
      });
}

void SimHost::ReadActivations(Term view) {
  auto last = std::make_shared<std::vector<Activation>>();
  CallEtcd([this, last] { *last = cluster_.etcd().LastActivations(); },
           [this, last, view](bool known) {
             if (known) node_->OnActivations(Clock(), view, *last);
           });
}

void SimHost::Activate(Term view, const std::vector<ActivatePartition>& partitions) {
  auto ok = std::make_shared<bool>(false);
  CallEtcd([this, id = id_, ok, view, partitions] { *ok = cluster_.etcd().Activate(id, view, partitions); },
           [this, ok, view](bool known) { node_->OnActivated(Clock(), view, known && *ok, !known); });
}

// ---- data ----

void SimHost::Send(NodeId to, Message message) { cluster_.Send(*this, to, std::move(message)); }

void SimHost::Fetch(const Pull& pull) {
  const Time takes = 2 * cluster_.Delay();
  InProcess(takes, [this, pull] {
    bool ok = false;
    for (const NodeId source : pull.from) {
      SimHost* host = cluster_.FindHost(source);
      ok = ok || (host && host->HasBytes(pull.name, pull.op) && cluster_.DataOpen(number_, host->number()));
    }
    if (ok && !records_->Find(pull.name, pull.op)) {
      HeldRecord record{pull.name, pull.op, {}, std::max(node_->view().term, pull.view)};
      record.nbytes = pull.info.nbytes;
      record.replicas = pull.info.replicas;
      record.cache = pull.info.cache;
      record.info = pull.info.info;
      records_->Add(std::move(record));
    }
    node_->OnFetched(Clock(), pull.name, pull.op, ok);
  });
}

void SimHost::OnHistoryLost(Partition partition) { cluster_.on_history_lost(partition); }

// ---- clients ----

std::optional<FoundValue> SimHost::ReadLocal(const std::string& name) const {
  if (!records_) return std::nullopt;
  if (Clock() < serve_until_ || !Keeps(Rule::kLeaseAtHolder)) {
    if (const auto record = records_->FindLive(name)) return FoundValue{record->info, record->op, record->version};
  }
  auto copy = copies_.find(name);
  if (copy != copies_.end() && Clock() < copy->second.until) return copy->second.value;
  return std::nullopt;
}

bool SimHost::HasBytes(const std::string& name, OpId op) const { return records_ && records_->Find(name, op); }

void SimHost::KeepCopy(const std::string& name, FoundValue value, Time lease_until) {
  copies_[name] = {value, lease_until};
}

void SimHost::StartPut(PutRequest request, OperationDone done) {
  InProcess(0, [this, request = std::move(request), done = std::move(done)] {
    const OpId op = node_->NextOp();
    HeldRecord record{request.name, op, {}, node_->view().term};
    record.nbytes = request.info.nbytes;
    record.replicas = request.info.replicas;
    record.cache = request.info.cache;
    record.info = request.info.info;
    records_->Add(std::move(record));
    operations_[op] = done;
    node_->Put(Clock(), op, request);
  });
}

void SimHost::StartDelete(const std::string& name, Conditions conditions, OperationDone done) {
  InProcess(0, [this, name, conditions, done = std::move(done)] {
    const OpId op = node_->NextOp();
    operations_[op] = done;
    node_->Delete(Clock(), op, name, conditions);
  });
}

void SimHost::StartMove(const std::string& name, NodeId to, bool copy) {
  InProcess(0, [this, name, to, copy] { node_->MoveTensor(Clock(), ++last_ticket_, name, to, copy); });
}

void SimHost::StartLookup(const std::string& name, bool lease, LookupDone done) {
  const uint64_t ticket = ++last_ticket_;
  lookups_[ticket] = std::move(done);
  InProcess(0, [this, ticket, name, lease] { node_->Lookup(Clock(), ticket, {name}, lease); });
}

void SimHost::FinishOperation(OpId op, Outcome outcome, Version version) {
  auto it = operations_.find(op);
  if (it == operations_.end()) return;
  OperationDone done = std::move(it->second);
  operations_.erase(it);
  done(outcome, version);
}

void SimHost::FinishLookup(uint64_t ticket, const std::vector<LookupResult>& results, Time lease_until) {
  auto it = lookups_.find(ticket);
  if (it == lookups_.end()) return;
  LookupDone done = std::move(it->second);
  lookups_.erase(it);
  done(results.front(), lease_until);
}

}  // namespace penstock::server::directory
