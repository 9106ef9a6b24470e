// What outlives the process of a node's tables: the entries of the partitions that it is home or backup of, and what it has promised.
//
// A process that follows another one of the same memory begins with it as a node that was away for a moment: it is home of nothing until
// it has activated its partitions anew, but it has their history, so no history is lost with processes, however many end at once.
//
// Every call must have taken effect, for whoever comes next, when it returns: what the node says to others afterwards rests on it.
//
// Threading:  called by DirectoryNode on its thread, in the middle of its events; Load before its first one
// Ownership:  the implementation's; what it is given are views of the caller's
// Errors:     none: an implementation without room forgets the partition (complete = false), which is what a node without memory has
// Limits:     a process may end between any two calls
#pragma once

#include <functional>
#include <string_view>

#include "server/directory/directory_messages.h"
#include "server/directory/entry.h"

namespace penstock::server::directory {

struct TableHeader {
  HistoryFloor floor;
  Term term = 0;  // PartitionState
  Term base = 0;
};

class Tables {
 public:
  virtual ~Tables() = default;

  // The partition's entries are all that they should be. Until then, and after Clear, they are none.
  virtual void SetComplete(Partition partition, const TableHeader& header) = 0;
  virtual void Put(Partition partition, const Entry& entry) = 0;  // instead of the one of its name
  virtual void Erase(Partition partition, std::string_view name) = 0;
  virtual void Clear(Partition partition) = 0;  // entries and header; not the promise
  virtual void SetPromise(Partition partition, Term promised) = 0;

  // Told between events, every 10 ms or so: an implementation that wants all of it once more (to forget what is no longer so) asks
  // for it here, some partitions at a time. `tell` says what there is of one, as Clear and the others above would.
  using Tell = std::function<void(Partition partition, Tables* to)>;
  virtual void Renew(const Tell& /*tell*/) {}

  struct Loaded {
    std::function<void(Partition partition, Term promised)> promise;
    std::function<void(Partition partition, const TableHeader& header)> complete;
    std::function<void(Partition partition, Entry entry)> entry;  // of those that are complete
  };
  virtual void Load(const Loaded& loaded) const = 0;
};

}  // namespace penstock::server::directory
