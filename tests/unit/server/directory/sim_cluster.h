// The hosts, the network between them, etcd; faults are switched here.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/server/directory/sim_etcd.h"
#include "tests/unit/server/directory/sim_host.h"
#include "tests/unit/server/directory/sim_world.h"

namespace penstock::server::directory {

struct SimOptions {
  int hosts = 3;
  Time tombstone_age = 2 * kSecond;
  uint32_t partition_count = 4;
  bool verbose = false;
};

class SimCluster {
 public:
  SimCluster(SimWorld& world, const SimOptions& options);

  SimWorld& world() { return world_; }
  SimEtcd& etcd() { return etcd_; }
  const SimOptions& options() const { return options_; }
  std::vector<std::unique_ptr<SimHost>>& hosts() { return hosts_; }
  SimHost* FindHost(NodeId id);
  Config NodeConfig() const;

  // ---- the network ----
  void Send(SimHost& from, NodeId to, Message message);
  bool DataOpen(int a, int b) const { return !data_cut_.count({std::min(a, b), std::max(a, b)}) && Open(a, b) && Open(b, a); }
  bool Open(int from, int to) const { return !cut_.count({from, to}); }
  bool EtcdOpen(int host) const { return !etcd_cut_.count(host); }
  Time Delay();

  // ---- faults ----
  void Cut(int from, int to) { cut_.insert({from, to}); }
  void CutData(int a, int b) { data_cut_.insert({std::min(a, b), std::max(a, b)}); }
  void CutEtcd(int host) { etcd_cut_.insert(host); }
  void HealNetwork();
  void SetLossy(double loss, double doubled, double slow) {
    loss_ = loss;
    doubled_ = doubled;
    slow_ = slow;
  }

  // ---- told by hosts ----
  uint64_t NewId() { return 1000 + ++last_id_; }
  std::function<void(Partition)> on_history_lost = [](Partition) {};
  std::function<void(const HeldRecord&)> on_last_copy_gone = [](const HeldRecord&) {};
  // Which of the records that `host` is losing nobody else has.
  void NoteLoss(SimHost& host);

 private:
  void OnEtcdChange();
  void WatchLeases();

  SimWorld& world_;
  SimOptions options_;
  SimEtcd etcd_;
  std::vector<std::unique_ptr<SimHost>> hosts_;
  uint64_t last_id_ = 0;
  std::set<std::pair<int, int>> cut_, data_cut_;
  std::set<int> etcd_cut_;
  double loss_ = 0, doubled_ = 0, slow_ = 0;
};

}  // namespace penstock::server::directory
