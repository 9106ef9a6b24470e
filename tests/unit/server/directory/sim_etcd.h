// Simulated etcd: leases, members' keys, the view, activations. Each call happens at once; hosts add the delays.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "server/directory/environment.h"
#include "server/directory/view.h"
#include "tests/unit/server/directory/sim_world.h"

namespace penstock::server::directory {

class SimEtcd {
 public:
  static constexpr Time kTtl = 3 * kSecond;

  struct MemberKey {
    uint64_t lease = 0;
    uint64_t session = 0;
    bool draining = false;
    std::string host;
    std::vector<NodeId> replaces;  // nodes of the same host whose memory is gone
  };

  SimEtcd(SimWorld& world, uint32_t partition_count, std::function<void()> changed)
      : world_(world), partition_count_(partition_count), changed_(std::move(changed)) {}

  uint64_t Register(NodeId node, MemberKey key) {
    key.lease = ++revision_;
    leases_[key.lease] = world_.now() + kTtl;
    keys_[node] = std::move(key);
    changed_();
    return revision_;
  }
  // False: the lease is over, or the node's key is under another one (a registration that came late replaced it).
  bool KeepAlive(NodeId node, uint64_t lease) {
    Expire();
    auto it = leases_.find(lease);
    auto key = keys_.find(node);
    if (it == leases_.end() || key == keys_.end() || key->second.lease != lease) return false;
    it->second = world_.now() + kTtl;
    return true;
  }
  void SetDraining(NodeId node, bool draining) {
    auto it = keys_.find(node);
    if (it == keys_.end()) return;
    it->second.draining = draining;
    changed_();
  }
  void Expire() {
    bool gone = false;
    for (auto it = leases_.begin(); it != leases_.end();) {
      if (it->second > world_.now()) {
        ++it;
        continue;
      }
      for (auto key = keys_.begin(); key != keys_.end();) {
        const bool its = key->second.lease == it->first;
        gone |= its;
        key = its ? keys_.erase(key) : std::next(key);
      }
      it = leases_.erase(it);
    }
    if (gone) changed_();
  }

  const View& view() const { return view_; }
  // The view as the members' keys say it should be; its term is that of the view which it would follow.
  View Wanted() const {
    View next;
    next.term = view_.term;
    std::vector<NodeId> replaced;
    for (const auto& [id, key] : keys_) {
      const Member* old = view_.Find(id);
      next.members.push_back({id, key.session, key.lease, old ? old->since : 0, key.draining, key.host, ""});
      replaced.insert(replaced.end(), key.replaces.begin(), key.replaces.end());
    }
    std::vector<NodeId> absent = view_.absent;
    for (const Member& member : view_.members) {
      if (!next.Has(member.id)) absent.push_back(member.id);
    }
    for (const NodeId id : absent) {
      const bool is_replaced = std::find(replaced.begin(), replaced.end(), id) != replaced.end();
      if (!next.Has(id) && !is_replaced) next.absent.push_back(id);
    }
    return next;
  }
  static bool Same(const View& a, const View& b) {
    auto same = [](const Member& x, const Member& y) {
      return x.id == y.id && x.session == y.session && x.lease == y.lease && x.draining == y.draining;
    };
    return a.absent == b.absent && a.members.size() == b.members.size() &&
           std::equal(a.members.begin(), a.members.end(), b.members.begin(), same);
  }
  bool SwapView(View next) {
    if (next.term != view_.term) return false;
    next.term = ++revision_;
    for (Member& member : next.members) {
      if (member.since == 0) member.since = next.term;
    }
    view_ = std::move(next);
    changed_();
    return true;
  }

  bool Activate(NodeId home, Term view, const std::vector<ActivatePartition>& partitions) {
    if (view_.term != view) return false;
    for (const ActivatePartition& item : partitions) activations_[home][item.partition] = {view, home, item.backup};
    return true;
  }
  std::vector<Activation> LastActivations() const {
    std::vector<Activation> last(partition_count_);
    for (const auto& [home, partitions] : activations_) {
      for (const auto& [p, activation] : partitions) {
        if (activation.term > last[p].term) last[p] = activation;
      }
    }
    return last;
  }

 private:
  SimWorld& world_;
  uint32_t partition_count_;
  std::function<void()> changed_;
  uint64_t revision_ = 0;
  View view_;
  std::map<uint64_t, Time> leases_;
  std::map<NodeId, MemberKey> keys_;
  std::map<NodeId, std::map<Partition, Activation>> activations_;
};

}  // namespace penstock::server::directory
