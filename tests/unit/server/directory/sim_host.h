// A simulated host: its memory (catalog: records, serve_until, copies), its node process, its lease.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/directory/directory_node.h"
#include "tests/unit/server/directory/sim_etcd.h"
#include "tests/unit/server/directory/sim_world.h"

namespace penstock::server::directory {

class SimCluster;

class SimRecords : public Records {
 public:
  explicit SimRecords(uint32_t partition_count) : partition_count_(partition_count) {}
  std::optional<HeldRecord> Find(std::string_view name, OpId op) const override;
  void SetState(std::string_view name, OpId op, RecordState state, Version version) override;
  void Drop(std::string_view name, OpId op) override { records_.erase({std::string(name), op}); }
  std::vector<HeldRecord> List(Partition partition, std::string_view after, size_t limit) const override;
  void ForEach(const std::function<void(const HeldRecord&)>& visit) const override;
  Term since() const override { return since_; }
  void SetSince(Term since) override { since_ = since; }

  void Add(HeldRecord record) {
    auto key = std::make_pair(record.name, record.op);
    records_.insert_or_assign(std::move(key), std::move(record));
  }
  std::optional<HeldRecord> FindLive(std::string_view name) const;

 private:
  uint32_t partition_count_;
  std::map<std::pair<std::string, OpId>, HeldRecord> records_;
  Term since_ = 0;
};

struct FoundValue {
  std::string value;  // the info of the put
  OpId op;
  Version version;
};

// What outlives a process, as it would be read from memory.
class SimTables final : public Tables {
 public:
  void SetComplete(Partition partition, const TableHeader& header) override {
    partitions_[partition].header = header;
    partitions_[partition].complete = true;
  }
  void Put(Partition partition, const Entry& entry) override { partitions_[partition].entries.insert_or_assign(std::string(entry.name()), entry); }
  void Erase(Partition partition, std::string_view name) override { partitions_[partition].entries.erase(std::string(name)); }
  void Clear(Partition partition) override {
    partitions_[partition].entries.clear();
    partitions_[partition].complete = false;
  }
  void SetPromise(Partition partition, Term promised) override { partitions_[partition].promised = promised; }
  void Load(const Loaded& loaded) const override {
    for (const auto& [p, kept] : partitions_) {
      loaded.promise(p, kept.promised);
      if (!kept.complete) continue;
      loaded.complete(p, kept.header);
      for (const auto& [name, entry] : kept.entries) loaded.entry(p, entry);
    }
  }

 private:
  struct Kept {
    bool complete = false;
    TableHeader header;
    std::map<std::string, Entry> entries;
    Term promised = 0;
  };
  std::map<Partition, Kept> partitions_;
};

class SimHost : public Environment {
 public:
  SimHost(SimCluster& cluster, int number);

  // ---- life ----
  void Boot();          // new memory, new id, a process
  void StartProcess();  // with the memory that is there
  void KillProcess();   // memory stays
  void CrashHost();     // nothing stays
  void PauseUntil(Time until) { paused_until_ = std::max(paused_until_, until); }
  void SetDraining(bool draining);

  bool has_memory() const { return records_ != nullptr; }
  bool has_process() const { return node_ != nullptr; }
  NodeId id() const { return id_; }
  int number() const { return number_; }
  uint64_t session() const { return session_; }
  bool draining() const { return draining_; }
  DirectoryNode& node() { return *node_; }
  SimRecords& records() { return *records_; }
  Time Clock() const;

  // ---- what clients do ----
  // A get without a call: by the catalog alone, whatever the process does.
  std::optional<FoundValue> ReadLocal(const std::string& name) const;
  bool HasBytes(const std::string& name, OpId op) const;
  void KeepCopy(const std::string& name, FoundValue value, Time lease_until);

  using OperationDone = std::function<void(Outcome, Version)>;
  using LookupDone = std::function<void(const LookupResult&, Time lease_until)>;
  void StartPut(PutRequest request, OperationDone done);
  void StartDelete(const std::string& name, Conditions conditions, OperationDone done);
  void StartMove(const std::string& name, NodeId to, bool copy);
  void StartLookup(const std::string& name, bool lease, LookupDone done);

  // Runs `what` in the process that is there now, when it is not paused; never in a later one.
  void InProcess(Time delay, std::function<void()> what);
  void Receive(NodeId from, Message message);
  void OnViewNews(const View& view);
  void Reconcile();

  // ---- Environment ----
  void Send(NodeId to, Message message) override;
  void ReadActivations(Term view) override;
  void Activate(Term view, const std::vector<ActivatePartition>& partitions) override;
  void FinishOperation(OpId op, Outcome outcome, Version version) override;
  void FinishLookup(uint64_t ticket, const std::vector<LookupResult>& results, Time lease_until) override;
  void FinishMove(uint64_t ticket, const MoveAnswer& answer) override {}
  void Fetch(const Pull& pull) override;
  void RecallCopy(std::string_view name) override { copies_.erase(std::string(name)); }
  void OnNameEvent(const NameEvent& event) override {}
  void OnHistoryLost(Partition partition) override;

 private:
  struct Copy {
    FoundValue value;
    Time until = 0;
  };

  void AfterEvent();
  void KeepTicking();
  void TellLoad();
  void KeepLease();
  void Register();
  // `at_etcd` happens there, if the way is open; then `answer(true)` here; answer(false): nobody knows.
  void CallEtcd(std::function<void()> at_etcd, std::function<void(bool known)> answer);

  SimCluster& cluster_;
  const int number_;
  Time clock_offset_;
  // memory
  NodeId id_ = 0;
  std::unique_ptr<SimRecords> records_;
  std::unique_ptr<SimTables> tables_;
  Time serve_until_ = 0;
  std::map<std::string, Copy> copies_;
  std::vector<NodeId> replaces_;
  // process
  std::unique_ptr<DirectoryNode> node_;
  uint64_t session_ = 0;
  Time paused_until_ = 0;
  uint64_t lease_ = 0;
  bool registering_ = false;
  bool draining_ = false;
  uint64_t last_ticket_ = 0;
  std::map<OpId, OperationDone> operations_;
  std::map<uint64_t, LookupDone> lookups_;
};

}  // namespace penstock::server::directory
