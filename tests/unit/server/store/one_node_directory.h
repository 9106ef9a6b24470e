// OneNodeDirectory: a DirectoryNode that is alone in its cluster, over a store; etcd and the clock are in here.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/directory/directory_node.h"
#include "server/store/store_records.h"

namespace penstock::server {

// What outlives a process of the node, beside its memory.
struct EtcdOfOne {
  directory::Term term = 0;
  directory::Term since = 1;
  std::vector<directory::Activation> activations = std::vector<directory::Activation>(DirectoryBook::kPartitions);
  directory::Time now = 1000 * directory::kSecond;
};

class OneNodeDirectory : public directory::Environment {
 public:
  static constexpr directory::NodeId kSelf = 5;

  struct Ended {
    directory::Outcome outcome;
    directory::Version version;
  };

  // A process of the node: a new session, and a view that has it.
  OneNodeDirectory(Store* store, EtcdOfOne* etcd)
      : etcd_(etcd), records_(store), session_(1000 + etcd->term + 1), node_({.self = kSelf, .session = session_}, *this, records_) {
    NextView();
  }

  directory::DirectoryNode& node() { return node_; }
  uint64_t session() const { return session_; }

  // since: of a node that was out of the cluster; 0: as before.
  void NextView(directory::Term since = 0) {
    directory::View view;
    view.term = ++etcd_->term;
    if (since != 0) etcd_->since = since;
    view.members.push_back({.id = kSelf, .session = session_, .lease = 1, .since = etcd_->since, .host = "here", .zone = ""});
    node_.OnView(etcd_->now, view);
    node_.OnLease(etcd_->now, 1, etcd_->now + 1'000'000 * directory::kSecond);
  }
  // Lets virtual time go by until `done`, ten seconds of it at most.
  template <typename Done>
  bool RunUntil(Done done) {
    for (int tick = 0; tick < 1000; ++tick) {
      Answer();
      if (done()) return true;
      etcd_->now += 10 * directory::kMillisecond;
      node_.Tick(etcd_->now);
    }
    return done();
  }
  bool Settle() {
    return RunUntil([this] { return node_.Stats().home_active == DirectoryBook::kPartitions && node_.Stats().unsettled_records == 0; });
  }

  std::optional<Ended> Put(directory::OpId op, const std::string& name, directory::Conditions conditions = {}) {
    const directory::HeldRecord record = records_.Find(name, op).value();
    node_.Put(etcd_->now, op, {name, conditions, {record.nbytes, record.replicas, record.cache, record.info}});
    return Await(op);
  }
  std::optional<Ended> Delete(const std::string& name) {
    const directory::OpId op = node_.NextOp();
    node_.Delete(etcd_->now, op, name, {});
    return Await(op);
  }
  std::optional<directory::LookupResult> Lookup(const std::string& name) {
    node_.Lookup(etcd_->now, ++ticket_, {name}, false);
    if (!RunUntil([this] { return found_.contains(ticket_); })) return std::nullopt;
    return found_[ticket_];
  }

  // ---- Environment ----
  void Send(directory::NodeId, directory::Message) override {}
  void ReadActivations(directory::Term view) override {
    answers_.push_back([this, view] { node_.OnActivations(etcd_->now, view, etcd_->activations); });
  }
  void Activate(directory::Term view, const std::vector<directory::ActivatePartition>& partitions) override {
    for (const auto& [partition, backup] : partitions) etcd_->activations[partition] = {view, kSelf, backup};
    answers_.push_back([this, view] { node_.OnActivated(etcd_->now, view, true, false); });
  }
  void FinishOperation(directory::OpId op, directory::Outcome outcome, directory::Version version) override { ended_[op] = {outcome, version}; }
  void FinishLookup(uint64_t ticket, const std::vector<directory::LookupResult>& results, directory::Time) override { found_[ticket] = results[0]; }
  void FinishMove(uint64_t, const directory::MoveAnswer&) override {}
  void Fetch(const directory::Pull&) override {}
  void RecallCopy(std::string_view) override {}
  void OnNameEvent(const directory::NameEvent&) override {}
  void OnHistoryLost(directory::Partition) override {}

 private:
  void Answer() {
    while (!answers_.empty()) {
      const auto answers = std::exchange(answers_, {});
      for (const auto& answer : answers) answer();
    }
  }
  std::optional<Ended> Await(directory::OpId op) {
    if (!RunUntil([&] { return ended_.contains(op); })) return std::nullopt;
    return ended_[op];
  }

  EtcdOfOne* const etcd_;
  StoreRecords records_;
  const uint64_t session_;
  std::vector<std::function<void()>> answers_;
  std::map<directory::OpId, Ended> ended_;
  std::map<uint64_t, directory::LookupResult> found_;
  uint64_t ticket_ = 0;
  directory::DirectoryNode node_;
};

}  // namespace penstock::server
