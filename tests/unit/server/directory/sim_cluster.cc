#include "tests/unit/server/directory/sim_cluster.h"

#include <algorithm>

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
  config.tombstone_age = 2 * kSecond;
  config.pull_patience = 2 * kSecond;
  return config;
}

SimHost* SimCluster::FindHost(NodeId id) {
  for (auto& host : hosts_) {
    if (host->has_memory() && host->id() == id) return host.get();
  }
  return nullptr;
}

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
      if (host && host->has_process() && Open(sender, host->number())) host->Receive(sender_id, message);
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
