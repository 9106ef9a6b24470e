#include "tests/unit/server/directory/simulation.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>

#include "absl/strings/str_format.h"
#include "tests/unit/server/directory/sim_clients.h"
#include "tests/unit/server/directory/sim_cluster.h"

namespace penstock::server::directory {
namespace {

constexpr Time kStorm = 12 * kSecond;    // how long faults happen
constexpr Time kSettle = 90 * kSecond;  // in which everything must be right again

class Schedule {
 public:
  Schedule(uint64_t seed, bool verbose)
      : world_(seed), cluster_(world_, Options(verbose)), clients_(cluster_, 2 + world_.random.Below(4), 1 + world_.random.Below(2)) {
    cluster_.on_history_lost = [this](Partition p) {
      lost_partitions_.insert(p);
      ++histories_lost_;
      clients_.NoteHistoryLost(p);
      Say("history of partition %d lost", p);
    };
    cluster_.on_last_copy_gone = [this](const HeldRecord& record) {
      Say("last copy of %s value %s gone", record.name.c_str(), record.info.c_str());
      clients_.NoteLastCopyGone(record);
    };
  }

  ScheduleResult Run() {
    BootHosts();
    clients_.Start(world_.now() + kStorm);
    Storm();
    ScheduleResult result;
    result.failure = Settle();
    if (result.failure.empty()) result.failure = FinalGets();
    if (result.failure.empty()) result.failure = CheckRecords();
    if (result.failure.empty()) result.failure = CheckHistories(result.undecided);
    result.events = world_.events();
    result.calls = clients_.call_count();
    result.histories_lost = histories_lost_;
    return result;
  }

 private:
  SimOptions Options(bool verbose) {
    SimOptions options;
    options.hosts = 2 + static_cast<int>(world_.random.Below(4));
    options.partition_count = 1 + static_cast<uint32_t>(world_.random.Below(4));
    options.tombstone_age = world_.random.Chance(0.5) ? 100 * kMillisecond : 2 * kSecond;
    options.verbose = verbose;
    return options;
  }
  template <typename... Args>
  void Say(const absl::FormatSpec<Args...>& format, const Args&... args) {
    if (!cluster_.options().verbose) return;
    std::printf("%9.3f %s\n", double(world_.now()) / kSecond, absl::StrFormat(format, args...).c_str());
  }

  void BootHosts() {
    for (auto& host : cluster_.hosts()) {
      const bool later = world_.random.Chance(0.2) && host->number() > 0;
      const Time when = later ? world_.random.Between(0, kStorm) : world_.random.Between(0, 100 * kMillisecond);
      world_.After(when, [&host] {
        if (!host->has_memory()) host->Boot();
      });
    }
    world_.RunUntil(world_.now() + 2 * kSecond);
  }

  // ---- faults ----

  void Storm() {
    const Time end = world_.now() + kStorm;
    // A schedule has a character: only some kinds of faults, so that rare combinations come up often.
    for (int i = 0; i < 8; ++i) allowed_[i] = world_.random.Chance(0.4);
    if (world_.random.Chance(0.5)) {
      cluster_.SetLossy(world_.random.Chance(0.5) ? 0.1 : 0, world_.random.Chance(0.5) ? 0.1 : 0,
                        world_.random.Chance(0.5) ? 0.02 : 0);
    }
    const Time gap = world_.random.Between(300, 3000) * kMillisecond;
    while (world_.now() < end) {
      world_.RunUntil(std::min(end, world_.now() + world_.random.Between(1, 2 * gap)));
      const int kind = static_cast<int>(world_.random.Below(8));
      if (allowed_[kind]) Fault(kind);
    }
  }

  SimHost& AnyHost() { return *cluster_.hosts()[world_.random.Below(cluster_.hosts().size())]; }

  void Fault(int kind) {
    SimHost& host = AnyHost();
    const int n = host.number();
    switch (kind) {
      case 0:
        return CrashProcess(host);
      case 1:
        return CrashHost(host);
      case 2: {
        const Time length = world_.random.Between(20, 7000) * kMillisecond;
        Say("host %d paused for %.3f s", n, double(length) / kSecond);
        return host.PauseUntil(world_.now() + length);
      }
      case 3: {
        Say("host %d cut off", n);
        for (auto& other : cluster_.hosts()) {
          if (other.get() == &host) continue;
          cluster_.Cut(n, other->number());
          cluster_.Cut(other->number(), n);
        }
        if (world_.random.Chance(0.5)) cluster_.CutEtcd(n);
        return HealLater();
      }
      case 4: {
        const int other = AnyHost().number();
        if (other == n) return;
        Say("no way from %d to %d", n, other);
        cluster_.Cut(n, other);
        return HealLater();
      }
      case 5:
        Say("host %d without etcd", n);
        cluster_.CutEtcd(n);
        if (world_.random.Chance(0.3)) cluster_.CutEtcd(AnyHost().number());
        return HealLater();
      case 6: {
        const int other = AnyHost().number();
        if (other == n) return;
        Say("no data between %d and %d", n, other);
        cluster_.CutData(n, other);
        return HealLater();
      }
      default:
        if (!host.has_process()) return;
        Say("host %d draining: %d", n, !host.draining());
        host.SetDraining(!host.draining());
    }
  }

  void HealLater() {
    world_.After(world_.random.Between(100, 7000) * kMillisecond, [this] {
      Say("network whole");
      cluster_.HealNetwork();
    });
  }

  void CrashProcess(SimHost& host) {
    if (!host.has_process()) return;
    Say("process of host %d killed", host.number());
    host.KillProcess();
    world_.After(world_.random.Between(10, 6000) * kMillisecond, [this, &host] {
      if (!host.has_memory() || host.has_process()) return;
      Say("process of host %d started", host.number());
      host.StartProcess();
    });
  }

  void CrashHost(SimHost& host) {
    if (!host.has_memory()) return;
    Say("host %d crashed", host.number());
    host.CrashHost();
    world_.After(world_.random.Between(100, 8000) * kMillisecond, [this, &host] {
      if (host.has_memory()) return;
      host.Boot();
      Say("host %d booted as %d", host.number(), int(host.id()));
    });
  }

  // ---- peace ----

  std::string Settle() {
    Say("peace");
    cluster_.HealNetwork();
    cluster_.SetLossy(0, 0, 0);
    const bool keep_draining = world_.random.Chance(0.5);
    world_.RunUntil(world_.now() + 10 * kSecond);
    for (auto& host : cluster_.hosts()) {
      if (!host->has_memory()) host->Boot();
      if (!host->has_process()) host->StartProcess();
      if (host->draining() && !keep_draining) host->SetDraining(false);
    }
    const Time limit = world_.now() + kSettle;
    std::string open = "?";
    while (world_.now() < limit) {
      world_.RunUntil(world_.now() + kSecond);
      open = WhatIsOpen();
      if (open.empty()) return {};
    }
    if (cluster_.options().verbose) Dump();
    return "did not settle: " + open;
  }

  void Dump() {
    for (auto& host : cluster_.hosts()) {
      const DirectoryStats s = host->node().Stats();
      Say("host %d: view %d of %d, active %d moving %d operations %d requests %d unsettled %d pulls %d", host->number(),
          int(host->node().view().term), int(cluster_.etcd().view().term), int(s.home_active), int(s.home_moving),
          int(s.open_operations), int(s.open_requests), int(s.unsettled_records), int(s.pulls));
    }
    static constexpr const char* kStates[] = {"prepared", "live", "superseded", "unconfirmed", "quarantined"};
    for (auto& host : cluster_.hosts()) {
      Say("host %d id %d session %d:", host->number(), int(host->id()), int(host->session()));
      host->node().ForEachEntry([&](const Entry& entry) {
        std::string text = entry.text + " (" + std::to_string(entry.version.number) + ") wants " + std::to_string(entry.replicas);
        for (const NodeId node : entry.holders) text += " " + std::to_string(node);
        Say("  entry %s%s", text.c_str(), entry.deleted ? " deleted" : "");
      });
      host->records().ForEach([&](const HeldRecord& record) {
        Say("  record %s value %s op %d/%d %s", record.name.c_str(), record.info.c_str(), int(record.op.session),
            int(record.op.count), kStates[int(record.state)]);
      });
    }
  }

  std::string WhatIsOpen() {
    const View& view = cluster_.etcd().view();
    if (view.members.size() != cluster_.hosts().size()) {
      std::string text = "members are missing:";
      for (const Member& member : view.members) text += " " + member.host;
      return text;
    }
    if (!view.absent.empty()) return "nodes are absent";
    if (clients_.open_count() > 0) return absl::StrFormat("%d calls", clients_.open_count());
    size_t active = 0;
    for (auto& host : cluster_.hosts()) {
      const DirectoryStats stats = host->node().Stats();
      const int n = host->number();
      active += stats.home_active;
      if (host->node().view().term != view.term) return absl::StrFormat("host %d has an old view", n);
      if (stats.home_moving) return absl::StrFormat("host %d takes over %d partitions", n, stats.home_moving);
      if (stats.open_operations) return absl::StrFormat("host %d has %d operations", n, stats.open_operations);
      if (stats.open_requests) return absl::StrFormat("host %d has %d requests", n, stats.open_requests);
      if (stats.unsettled_records) return absl::StrFormat("host %d has %d unsettled", n, stats.unsettled_records);
      if (stats.pulls) return absl::StrFormat("host %d pulls", n);
      if (stats.transfers) return absl::StrFormat("host %d moves %d tensors", n, stats.transfers);
      if (stats.tombstones) return absl::StrFormat("host %d has %d tombstones", n, stats.tombstones);
      if (stats.under_replicated) return absl::StrFormat("host %d: %d entries lack copies", n, stats.under_replicated);
    }
    if (active != cluster_.options().partition_count) return absl::StrFormat("%d partitions are active", active);
    return CheckRecords();
  }

  std::string FinalGets() {
    clients_.StartFinalGets();
    world_.RunUntil(world_.now() + 45 * kSecond);
    if (clients_.open_count() > 0) return "a final get did not end";
    for (const auto& lost : clients_.lost()) {
      const std::string& name = lost.first;
      const std::string& value = lost.second;
      for (auto& host : cluster_.hosts()) {
        std::string found;
        host->records().ForEach([&](const HeldRecord& record) {
          if (record.name == name && record.info == value && record.state != RecordState::kQuarantined) {
            found = absl::StrFormat("%s value %s is called lost, but host %d has it", name, value, host->number());
          }
        });
        if (!found.empty()) return found;
      }
    }
    return {};
  }

  // Entries say what the nodes hold, and the other way round.
  std::string CheckRecords() {
    std::map<std::string, const Entry*> entries;
    for (auto& host : cluster_.hosts()) {
      host->node().ForEachEntry([&](const Entry& entry) { entries[std::string(entry.name())] = &entry; });
    }
    const View& view = cluster_.etcd().view();
    const size_t steady = view.CountSteady();
    std::map<std::string, std::set<NodeId>> held;
    for (auto& host : cluster_.hosts()) {
      std::string wrong;
      host->records().ForEach([&](const HeldRecord& record) {
        const int n = host->number();
        if (record.state == RecordState::kQuarantined) {
          const Partition p = PartitionOf(record.name, cluster_.options().partition_count);
          if (!lost_partitions_.count(p)) wrong = absl::StrFormat("host %d has %s in quarantine", n, record.name);
          return;
        }
        auto it = entries.find(record.name);
        if (it == entries.end() || it->second->deleted || it->second->op != record.op) {
          wrong = absl::StrFormat("host %d holds %s value %s, which its home does not know", n, record.name, record.info);
        } else if (record.state != RecordState::kLive) {
          wrong = absl::StrFormat("host %d has %s in state %d", n, record.name, int(record.state));
        } else if (record.version != it->second->version) {
          wrong = absl::StrFormat("host %d has %s in another version", n, record.name);
        } else if (!view.IsSteady(host->id())) {
          wrong = absl::StrFormat("host %d drains and holds %s", n, record.name);
        }
        held[record.name].insert(host->id());
      });
      if (!wrong.empty()) return wrong;
    }
    for (const auto& [name, entry] : entries) {
      if (entry->deleted) continue;
      const std::set<NodeId> said(entry->holders.begin(), entry->holders.end());
      if (said != held[name]) return absl::StrFormat("%s: the entry has %d holders, %d hold it", name, said.size(), held[name].size());
      if (!said.empty() && said.size() < std::min<size_t>(entry->replicas, steady)) return name + " lacks copies";
    }
    return {};
  }

  std::string CheckHistories(size_t& undecided) {
    for (const auto& [name, history] : clients_.histories()) {
      std::vector<Call> calls;
      const bool lost = lost_partitions_.count(PartitionOf(name, cluster_.options().partition_count)) > 0;
      for (const Call& call : history) {
        // A get without an answer, or that ended with an error, says nothing.
        if (call.kind == CallKind::kGet && call.end == kForever) continue;
        calls.push_back(call);
        if (!lost || call.if_value == 0) continue;
        // After a loss numbers may begin anew, and if_version may meet another value of the same number.
        calls.back().if_value = 0;
        if (call.result == CallResult::kConflict) calls.pop_back();
      }
      const HistoryVerdict verdict = CheckLinearizable(calls);
      undecided += verdict == HistoryVerdict::kUndecided;
      std::string wrong;
      if (verdict == HistoryVerdict::kWrong) wrong = "not linearizable";
      if (wrong.empty() && !lost) wrong = CheckVersions(calls);
      if (wrong.empty()) continue;
      std::string text = absl::StrFormat("%s: %s\n", name, wrong);
      for (const Call& call : calls) text += call.Text() + "\n";
      return text;
    }
    return {};
  }

  SimWorld world_;
  SimCluster cluster_;
  SimClients clients_;
  bool allowed_[8] = {};
  std::set<Partition> lost_partitions_;
  size_t histories_lost_ = 0;
};

}  // namespace

ScheduleResult RunSchedule(uint64_t seed, bool verbose) { return Schedule(seed, verbose).Run(); }

}  // namespace penstock::server::directory
