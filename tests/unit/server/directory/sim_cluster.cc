#include "tests/unit/server/directory/sim_cluster.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_format.h"

namespace penstock::server::directory {

SimCluster::SimCluster(SimWorld& world, const SimOptions& options)
    : world_(world), options_(options), etcd_(world, options.partition_count, [this] { OnEtcdChange(); }) {
  for (int i = 0; i < options.hosts; ++i) hosts_.push_back(std::make_unique<SimHost>(*this, i));
  WatchLeases();
}

Config SimCluster::NodeConfig() const {
  Config config;
  config.partition_count = options_.partition_count;
  config.entries_per_message = 3;  // so that a few names need several messages
  config.moves_at_once = 2;
  config.pulls_at_once = 2;
  config.tombstone_age = options_.tombstone_age;
  config.pull_patience = 2 * kSecond;
  config.rebalance_difference = 0.04;  // two of SimHost::TellLoad' forty
  config.rebalance_bytes = 1;
  config.rebalance_after = 200 * kMillisecond;
  return config;
}

SimHost* SimCluster::FindHost(NodeId id) {
  for (auto& host : hosts_) {
    if (host->has_memory() && host->id() == id) return host.get();
  }
  return nullptr;
}

namespace {

// For --verbose: what a message says about one name.
struct Describe {
  std::string operator()(const Propose& m) {
    return absl::StrFormat("Propose %s %s op %d/%d term %d first %d", m.name, m.info.info, m.op.session, m.op.count, m.term, m.first_term);
  }
  std::string operator()(const ProposeAnswer& m) {
    return absl::StrFormat("ProposeAnswer op %d/%d outcome %d term %d", m.op.session, m.op.count, int(m.outcome), m.term);
  }
  std::string operator()(const Supersede& m) {
    return absl::StrFormat("Supersede %s op %d/%d term %d run %d", m.name, m.op.session, m.op.count, m.term, m.run);
  }
  std::string operator()(const RunAck& m) { return absl::StrFormat("RunAck %s run %d", m.name, m.run); }
  std::string operator()(const Replicate& m) {
    return absl::StrFormat("Replicate %s op %d/%d term %d change %d", m.entry.text, m.entry.op.session, m.entry.op.count,
                           m.term, m.entry.stamp.change);
  }
  std::string operator()(const ReplicateAck& m) { return absl::StrFormat("ReplicateAck %s %d", m.name, m.stamp.change); }
  std::string operator()(const Committed& m) { return absl::StrFormat("Committed %s op %d/%d", m.name, m.op.session, m.op.count); }
  std::string operator()(const Drop& m) { return absl::StrFormat("Drop %s op %d/%d", m.name, m.op.session, m.op.count); }
  std::string operator()(const Discard& m) { return absl::StrFormat("Discard %s op %d/%d", m.name, m.op.session, m.op.count); }
  std::string operator()(const Pull& m) { return absl::StrFormat("Pull %s op %d/%d: %s", m.name, m.op.session, m.op.count, ReasonText(m.reason)); }
  std::string operator()(const Move& m) { return absl::StrFormat("Move %s to %d copy %d", m.name, m.to, m.copy); }
  std::string operator()(const MoveAnswer& m) { return absl::StrFormat("MoveAnswer outcome %d from %d", int(m.outcome), m.from); }
  std::string operator()(const LetGo& m) { return absl::StrFormat("LetGo %s op %d/%d", m.name, m.op.session, m.op.count); }
  std::string operator()(const PullDone& m) {
    return absl::StrFormat("PullDone %s op %d/%d ok %d", m.name, m.op.session, m.op.count, m.ok);
  }
  std::string operator()(const Resolve& m) {
    std::string text = "Resolve";
    for (const ResolveItem& item : m.items) {
      text += absl::StrFormat(" [%s op %d/%d number %d term %d leaving %d]", item.name, item.op.session, item.op.count,
                              item.version.number, item.term, item.leaving);
    }
    return text;
  }
  std::string operator()(const Verdicts& m) {
    std::string text = "Verdicts";
    for (const Verdict& item : m.items) {
      text += absl::StrFormat(" [%s op %d/%d kind %d term %d]", item.name, item.op.session, item.op.count, int(item.kind), item.term);
    }
    return text;
  }
  std::string operator()(const OpQueryAnswer& m) { return absl::StrFormat("OpQueryAnswer %s op %d/%d open %d", m.name, m.op.session, m.op.count, m.open); }
  std::string operator()(const HandoverPart& m) { return absl::StrFormat("HandoverPart %d view %d complete %d entries %d", m.partition, m.view, m.complete, m.entries.size()); }
  std::string operator()(const Push& m) { return absl::StrFormat("Push %d view %d base %d entries %d", m.partition, m.view, m.base, m.entries.size()); }
  std::string operator()(const Refused& m) { return absl::StrFormat("Refused %d promised %d", m.partition, m.promised); }
  template <typename Other>
  std::string operator()(const Other&) {
    return {};
  }
};

}  // namespace

Time SimCluster::Delay() {
  SimRandom& random = world_.random;
  if (random.Chance(slow_)) return random.Between(20 * kMillisecond, 4 * kSecond);
  return random.Between(kMillisecond / 10, random.Chance(0.1) ? 40 * kMillisecond : 3 * kMillisecond);
}

void SimCluster::Send(SimHost& from, NodeId to, Message message) {
  const int sender = from.number();
  const NodeId sender_id = from.id();
  const int times = world_.random.Chance(doubled_) ? 2 : 1;
  for (int i = 0; i < times; ++i) {
    if (world_.random.Chance(loss_)) continue;
    world_.After(Delay(), [this, sender, sender_id, to, message] {
      SimHost* host = FindHost(to);
      if (!host || !host->has_process() || !Open(sender, host->number())) return;
      if (options_.verbose) {
        const std::string text = std::visit(Describe(), message);
        if (!text.empty()) std::printf("%9.3f %d -> %d: %s\n", double(world_.now()) / kSecond, sender, host->number(), text.c_str());
      }
      host->Receive(sender_id, message);
    });
  }
}

void SimCluster::HealNetwork() {
  cut_.clear();
  data_cut_.clear();
  etcd_cut_.clear();
}

void SimCluster::NoteLoss(SimHost& host) {
  host.records().ForEach([&](const HeldRecord& record) {
    const bool elsewhere = std::any_of(hosts_.begin(), hosts_.end(), [&](const auto& other) {
      return other.get() != &host && other->HasBytes(record.name, record.op);
    });
    if (!elsewhere) on_last_copy_gone(record);
  });
}

void SimCluster::OnEtcdChange() {
  for (auto& host : hosts_) {
    if (!host->has_process() || !EtcdOpen(host->number())) continue;
    const Time lag = world_.random.Chance(0.05) ? world_.random.Between(0, 2 * kSecond) : Delay();
    const View view = etcd_.view();
    host->InProcess(lag, [host = host.get(), view] {
      host->OnViewNews(view);
      host->Reconcile();
    });
  }
}

void SimCluster::WatchLeases() {
  world_.After(50 * kMillisecond, [this] {
    etcd_.Expire();
    WatchLeases();
  });
}

}  // namespace penstock::server::directory
