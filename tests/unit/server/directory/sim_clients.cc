#include "tests/unit/server/directory/sim_clients.h"

#include <algorithm>
#include <utility>

namespace penstock::server::directory {
namespace {

constexpr Time kPatience = 6 * kSecond;       // of a client
constexpr Time kFinalPatience = 40 * kSecond;  // of the gets at the end

uint64_t ValueOf(const std::string& info) { return std::stoull(info); }

}  // namespace

SimClients::SimClients(SimCluster& cluster, int names, int per_host) : cluster_(cluster), per_host_(per_host) {
  for (int i = 0; i < names; ++i) names_.push_back("name" + std::to_string(i));
}

void SimClients::Start(Time until) {
  for (size_t host = 0; host < cluster_.hosts().size(); ++host) {
    for (int i = 0; i < per_host_; ++i) Loop(static_cast<int>(host), until);
  }
}

void SimClients::Loop(int host, Time until) {
  SimWorld& world = cluster_.world();
  const Time pause = world.random.Between(1, 400) * kMillisecond;
  if (world.now() + pause > until) return;
  world.After(pause, [this, host, until] { Act(host, until); });
}

void SimClients::Act(int host, Time until) {
  SimRandom& random = cluster_.world().random;
  SimHost& at = *cluster_.hosts()[host];
  const std::string name = names_[random.Below(names_.size())];
  auto next = [this, host, until] { Loop(host, until); };
  if (!at.has_process()) {
    // The catalog outlives the process: clients go on reading.
    if (at.has_memory() && at.ReadLocal(name)) return Get(host, name, false, next);
    return next();
  }
  const uint64_t dice = random.Below(100);
  if (dice < 45) return Get(host, name, false, next);
  if (dice < 85) return Put(host, name, next);
  if (dice < 95) return Delete(host, name, next);
  dice < 97 ? Evict(host, name) : Move(host, name);
  next();
}

// ---- bookkeeping ----

std::shared_ptr<SimClients::Open> SimClients::Begin(const std::string& name, Call call, std::function<void()> next) {
  ++call_count_;
  ++open_;
  call.begin = cluster_.world().now();
  auto& history = histories_[name];
  history.push_back(call);
  auto open = std::make_shared<Open>();
  open->name = name;
  open->index = history.size() - 1;
  open->next = std::move(next);
  return open;
}

void SimClients::End(const std::shared_ptr<Open>& open, CallResult result, uint64_t value, Version version) {
  if (open->ended) {
    // The client has gone on, but it is known now what became of it.
    Call& call = At(*open);
    if (call.kind == CallKind::kPut) call.version = version;
    return;
  }
  open->ended = true;
  --open_;
  Call& call = At(*open);
  call.result = result;
  if (result != CallResult::kUnknown) call.end = cluster_.world().now();
  if (call.kind == CallKind::kGet) call.value = value;
  if (version != Version{}) call.version = version;
  if (result == CallResult::kDone && call.kind != CallKind::kDelete) last_seen_[open->name] = {call.value, version};
  open->next();
}

void SimClients::GiveUp(const std::shared_ptr<Open>& open) {
  if (!open->ended) End(open, CallResult::kUnknown, 0, {});
}

void SimClients::NoteLastCopyGone(const HeldRecord& record) {
  Call call{CallKind::kForget, CallResult::kUnknown, cluster_.world().now(), kForever, ValueOf(record.info)};
  histories_[record.name].push_back(call);
}

void SimClients::NoteHistoryLost(Partition partition) {
  for (const std::string& name : names_) {
    if (PartitionOf(name, cluster_.options().partition_count) != partition) continue;
    histories_[name].push_back({CallKind::kForget, CallResult::kUnknown, cluster_.world().now(), kForever, 0});
  }
}

// ---- calls ----

void SimClients::Put(int host, const std::string& name, std::function<void()> next) {
  SimRandom& random = cluster_.world().random;
  Call call{CallKind::kPut};
  call.value = ++last_value_;
  PutRequest request;
  request.name = name;
  request.info.info = std::to_string(call.value);
  request.info.nbytes = 1;
  request.info.replicas = static_cast<uint8_t>(random.Chance(0.5) ? 1 : 2 + random.Below(2));
  request.info.cache = random.Chance(0.2);
  const Seen seen = last_seen_[name];
  if (random.Chance(0.15)) {
    call.if_absent = request.conditions.if_absent = true;
  } else if (random.Chance(0.15) && seen.value != 0) {
    call.if_value = seen.value;
    request.conditions.if_version = seen.version.number;
  } else if (random.Chance(0.1)) {
    request.conditions.version = seen.version.number + 1 + random.Below(5);
  }
  const bool own_number = request.conditions.version != 0;
  auto open = Begin(name, call, std::move(next));
  cluster_.hosts()[host]->StartPut(request, [this, open, own_number](Outcome outcome, Version version) {
    if (outcome == Outcome::kCommitted) return End(open, CallResult::kDone, 0, version);
    if (outcome == Outcome::kConflict && !own_number) return End(open, CallResult::kConflict, 0, {});
    GiveUp(open);
  });
  cluster_.world().After(kPatience, [this, open] { GiveUp(open); });
}

void SimClients::Delete(int host, const std::string& name, std::function<void()> next) {
  auto open = Begin(name, Call{CallKind::kDelete}, std::move(next));
  cluster_.hosts()[host]->StartDelete(name, {}, [this, open](Outcome outcome, Version version) {
    if (outcome == Outcome::kCommitted) return End(open, CallResult::kDone, 0, version);
    if (outcome == Outcome::kNotFound) return End(open, CallResult::kAbsent, 0, {});
    GiveUp(open);
  });
  cluster_.world().After(kPatience, [this, open] { GiveUp(open); });
}

void SimClients::Evict(int host, const std::string& name) {
  SimHost& at = *cluster_.hosts()[host];
  at.InProcess(0, [this, &at, name] {
    const auto record = at.records().FindLive(name);
    if (!record) return;
    // The last copy of a cache tensor takes the name with it.
    if (record->cache) NoteLastCopyGone(*record);
    at.node().Evict(at.Clock(), name, record->op);
  });
}

void SimClients::Move(int host, const std::string& name) {
  SimRandom& random = cluster_.world().random;
  const NodeId to = cluster_.hosts()[random.Below(cluster_.hosts().size())]->id();
  if (to != 0) cluster_.hosts()[host]->StartMove(name, to, random.Chance(0.3));
}

void SimClients::Get(int host, const std::string& name, bool final, std::function<void()> next) {
  SimHost& at = *cluster_.hosts()[host];
  auto open = Begin(name, Call{CallKind::kGet}, std::move(next));
  if (const auto found = at.ReadLocal(name)) return End(open, CallResult::kDone, ValueOf(found->value), found->version);
  cluster_.world().After(final ? kFinalPatience : kPatience, [this, open] { GiveUp(open); });
  LookUp(host, name, final, open);
}

void SimClients::LookUp(int host, const std::string& name, bool final, std::shared_ptr<Open> open) {
  SimHost& at = *cluster_.hosts()[host];
  if (open->ended) return;
  if (!at.has_process()) return GiveUp(open);
  const bool lease = cluster_.world().random.Chance(0.5);
  at.StartLookup(name, lease, [=, this](const LookupResult& found, Time lease_until) {
    if (open->ended) return;
    if (found.status == LookupStatus::kAbsent) return End(open, CallResult::kAbsent, 0, {});
    if (found.status == LookupStatus::kFound) return FetchFrom(host, name, found, lease_until, final, open);
    if (final) lost_.emplace_back(name, found.info.info);
    GiveUp(open);
  });
}

void SimClients::FetchFrom(int host, const std::string& name, LookupResult found, Time lease_until, bool final,
                           std::shared_ptr<Open> open) {
  SimHost& at = *cluster_.hosts()[host];
  at.InProcess(2 * cluster_.Delay(), [=, this, &at] {
    bool ok = false;
    for (const NodeId holder : found.holders) {
      SimHost* source = cluster_.FindHost(holder);
      ok = ok || (source && source->HasBytes(name, found.op) &&
                  (source == &at || cluster_.DataOpen(host, source->number())));
    }
    if (open->ended) return;
    if (!ok) {
      cluster_.world().After(20 * kMillisecond, [=, this] { LookUp(host, name, final, open); });
      return;
    }
    End(open, CallResult::kDone, ValueOf(found.info.info), found.version);
  });
  // The copy is known under its lease from now on, so that a recall finds it; a recall in between takes it away again.
  if (lease_until != 0) at.KeepCopy(name, {found.info.info, found.op, found.version}, lease_until);
}

void SimClients::StartFinalGets() {
  for (size_t host = 0; host < cluster_.hosts().size(); ++host) {
    for (const std::string& name : names_) Get(static_cast<int>(host), name, true, [] {});
  }
}

}  // namespace penstock::server::directory
