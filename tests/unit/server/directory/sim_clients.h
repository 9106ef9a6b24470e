// Clients of the simulated hosts: each does one call after another on a few names, and writes down what it saw.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/unit/server/directory/history.h"
#include "tests/unit/server/directory/sim_cluster.h"

namespace penstock::server::directory {

class SimClients {
 public:
  SimClients(SimCluster& cluster, int names, int per_host);

  // Clients make calls until `until`.
  void Start(Time until);
  // One get of every name at every host that can; calls that cannot be answered count as failures() once they end.
  void StartFinalGets();
  size_t open_count() const { return open_; }

  // Every name's calls. Deque: calls do not move while they are open.
  const std::map<std::string, std::deque<Call>>& histories() const { return histories_; }
  // What final gets said to be lost: (name, value).
  const std::vector<std::pair<std::string, std::string>>& lost() const { return lost_; }
  size_t call_count() const { return call_count_; }

  // Known accidents: the tensor may be gone from now on.
  void NoteLastCopyGone(const HeldRecord& record);
  void NoteHistoryLost(Partition partition);

 private:
  struct Seen {
    uint64_t value = 0;
    Version version;
  };
  // A call under way; ended at most once: by its answer, its deadline, or the death of its process.
  struct Open {
    std::string name;
    size_t index = 0;
    bool ended = false;
    std::function<void()> next;
  };

  void Loop(int host, Time until);
  void Act(int host, Time until);
  std::shared_ptr<Open> Begin(const std::string& name, Call call, std::function<void()> next);
  void End(const std::shared_ptr<Open>& open, CallResult result, uint64_t value, Version version);
  // Nobody knows what became of it. Gets without an answer say nothing.
  void GiveUp(const std::shared_ptr<Open>& open);
  void Put(int host, const std::string& name, std::function<void()> next);
  void Delete(int host, const std::string& name, std::function<void()> next);
  void Get(int host, const std::string& name, bool final, std::function<void()> next);
  void LookUp(int host, const std::string& name, bool final, std::shared_ptr<Open> open);
  void FetchFrom(int host, const std::string& name, LookupResult found, Time lease_until, bool final,
                 std::shared_ptr<Open> open);
  void Evict(int host, const std::string& name);
  void Move(int host, const std::string& name);
  Call& At(const Open& open) { return histories_[open.name][open.index]; }

  SimCluster& cluster_;
  std::vector<std::string> names_;
  int per_host_;
  std::map<std::string, std::deque<Call>> histories_;
  std::map<std::string, Seen> last_seen_;
  std::vector<std::pair<std::string, std::string>> lost_;
  uint64_t last_value_ = 0;
  size_t open_ = 0;
  size_t call_count_ = 0;
};

}  // namespace penstock::server::directory
