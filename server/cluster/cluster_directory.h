// ClusterDirectory: this node's part in the directory of the cluster: the core of server/directory, with a clock, a lock and callers.
//
//   ClusterDirectory directory(config, &records, &tables, world);
//   directory.OnView(view);  directory.OnLease(lease, until);          // membership; it begins with the first view
//   directory.OnMessages(from, messages);                              // other nodes
//   directory.Put(prepare, request, [](auto outcome, auto version) { ... });
//
// Threading:  any thread, nothing waits. What ends is told on whichever thread made it end, without a lock. One thread of its own, for
//             what has to be asked again.
// Ownership:  the records, the tables, and what `world` reaches, must outlive it
// Errors:     outcomes. Before the first view puts are not proposed, and all else is told as kElsewhere (no results: lookups), as is
//             what is open at Stop.
// Limits:     those of directory::DirectoryNode; World's calls come with the lock held: they must return at once and not call back
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/directory/directory_node.h"

namespace penstock::server {

class ClusterDirectory final : directory::Environment {
 public:
  // What is outside: the network, etcd, the store.
  struct World {
    std::function<void(directory::NodeId to, directory::Message message)> send;
    std::function<void(directory::Term view)> read_activations;  // answered by OnActivations
    std::function<void(directory::Term view, const std::vector<directory::ActivatePartition>& partitions)> activate;  // by OnActivated
    std::function<void(const directory::Pull& pull)> fetch;      // by OnFetched
    std::function<void(std::string_view name)> recall_copy;
    std::function<void(directory::Time until)> serve_until;  // names are served by clients of this node until then
    std::function<void(const directory::NameEvent& event)> name_event;
    std::function<void(directory::Partition partition)> history_lost;
    std::function<std::string(directory::NodeId node)> name_of;  // for messages
  };

  ClusterDirectory(const directory::Config& config, directory::Records* records, directory::Tables* tables, World world);
  ~ClusterDirectory() { Stop(); }
  void Stop();  // idempotent

  // ---- the world ----
  void OnView(const directory::View& view);
  void OnLease(uint64_t lease, directory::Time serve_until);  // CLOCK_MONOTONIC; 0: there is none
  void OnMessages(directory::NodeId from, std::vector<directory::Message> messages);
  void OnActivations(directory::Term view, const std::vector<directory::Activation>& by_partition);
  void OnActivated(directory::Term view, bool ok, bool retry);
  void OnFetched(const std::string& name, directory::OpId op, bool ok);
  void TellLoad(const directory::NodeLoad& load);  // this node's own

  // ---- local clients ----
  using Done = std::function<void(directory::Outcome outcome, directory::Version version)>;
  // `prepare` makes the record of this op, of a proposer of this view, and says what the home shall know of it; nothing: it could
  // not, and nothing is proposed. False: so it was, or there is no view yet, or this is stopped.
  using Prepare = std::function<std::optional<directory::PutInfo>(directory::OpId op, directory::Term view)>;
  bool Put(std::string name, directory::Conditions conditions, const Prepare& prepare, Done done);
  void Delete(std::string name, directory::Conditions conditions, Done done);
  // `lease_until`: until when a copy of what was found may be served by name; InfinitePast: not. No results: not until `deadline`
  // (MonotonicNow; looked at every kOverdueEvery). At most kLookupNames names: an answer has their metadata.
  static constexpr size_t kLookupNames = 512;
  using Found = std::function<void(std::vector<directory::LookupResult> results, absl::Time lease_until)>;
  void Lookup(const std::vector<std::string>& names, bool lease, absl::Time deadline, Found found);
  // The same of any number, and waits. Nothing: not until `deadline`.
  struct LookedUp {
    std::vector<directory::LookupResult> results;
    absl::Time lease_until;
  };
  std::optional<LookedUp> LookupNow(const std::vector<std::string>& names, bool lease, absl::Time deadline);
  // Asks the tensor's home to move it, and waits. Nothing: it is still on its way at `deadline`, and goes on; ask again.
  std::optional<directory::MoveAnswer> MoveNow(const std::string& name, directory::NodeId to, bool copy, absl::Time deadline);
  // A record here that is to go: its home is asked.
  void Evict(std::string_view name, directory::OpId op);
  void LeaveDamaged(std::string_view name, directory::OpId op);

  // ---- answers at once ----
  std::optional<std::vector<directory::ListedName>> List(std::string_view prefix, std::string_view after, size_t limit);
  directory::DirectoryStats Stats();
  directory::DirectoryStats Counts();  // DirectoryNode::Counts
  directory::Term term();
  size_t CountSteady();  // nodes that keep replicas; 0: there is no view yet
  // What is to be said of `what`, which every node that had it has left: UNAVAILABLE while one of them may come back, or may just have
  // come back and not said yet what it has; then DATA_LOSS.
  absl::Status Lost(std::string_view what);

 private:
  using Node = directory::DirectoryNode;
  // One event of the core; then what it ended is told.
  template <typename Act>
  void Event(Act act, const directory::View* first = nullptr);
  static constexpr absl::Duration kOverdueEvery = absl::Milliseconds(100);
  struct PendingLookup {
    Found found;
    absl::Time deadline;
  };
  void Tick();
  void EndOverdueLookups();
  void TellFinished(std::vector<std::function<void()>>* finished);

  // Environment: with the lock held.
  void Send(directory::NodeId to, directory::Message message) override;
  void ReadActivations(directory::Term view) override;
  void Activate(directory::Term view, const std::vector<directory::ActivatePartition>& partitions) override;
  void FinishOperation(directory::OpId op, directory::Outcome outcome, directory::Version version) override;
  void FinishLookup(uint64_t ticket, const std::vector<directory::LookupResult>& results, directory::Time lease_until) override;
  void FinishMove(uint64_t ticket, const directory::MoveAnswer& answer) override;
  void Fetch(const directory::Pull& pull) override;
  void RecallCopy(std::string_view name) override;
  void OnNameEvent(const directory::NameEvent& event) override;
  void OnHistoryLost(directory::Partition partition) override;

  const World world_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<directory::OpId, Done> operations_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, PendingLookup> lookups_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, std::function<void(const directory::MoveAnswer&)>> moves_ ABSL_GUARDED_BY(mutex_);
  absl::Time joined_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // MonotonicNow: somebody, or the first view
  uint64_t last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::function<void()>> finished_ ABSL_GUARDED_BY(mutex_);  // to be called without the lock
  const directory::Config config_;
  directory::Records* const records_;
  directory::Tables* const tables_;
  std::optional<Node> node_ ABSL_GUARDED_BY(mutex_);  // from the first view on
  std::thread ticking_;
};

}  // namespace penstock::server
