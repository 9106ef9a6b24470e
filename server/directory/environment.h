// What a DirectoryNode asks of the world around it: the network, etcd, the node's store.
//
// Threading:  called on DirectoryNode's thread, in the middle of its events
// Ownership:  must outlive the DirectoryNode
// Errors:     none: what fails is not answered, or answered as failed, and is asked again
// Limits:     an implementation must not call back into the DirectoryNode before its event is over
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/directory/directory_messages.h"
#include "server/directory/ids.h"

namespace penstock::server::directory {

// One partition's last activation, as etcd has it: the largest term among the homes' keys.
struct Activation {
  Term term = 0;
  NodeId home = 0;
  NodeId backup = 0;
};

struct ActivatePartition {
  Partition partition = 0;
  NodeId backup = 0;
};

enum class NameEventKind : uint8_t { kPut, kDeleted, kLost, kFoundAgain };
struct NameEvent {
  NameEventKind kind = NameEventKind::kPut;
  std::string name;
  Version version;
  PutInfo info;  // of kPut
};

class Environment {
 public:
  virtual ~Environment() = default;

  // Best effort. Several to one peer in one event may travel as one.
  virtual void Send(NodeId to, Message message) = 0;

  // Read all activations, linearizably, after this call; answer with OnActivations(view, ...).
  virtual void ReadActivations(Term view) = 0;
  // One transaction: if etcd's view is the one of term `view`, add these to this node's activation key under that term.
  // Answer with OnActivated. An outcome that is not known is answered as failed with retry = true.
  virtual void Activate(Term view, const std::vector<ActivatePartition>& partitions) = 0;

  // A local put or delete is over.
  virtual void FinishOperation(OpId op, Outcome outcome, Version version) = 0;
  virtual void FinishLookup(uint64_t ticket, const std::vector<LookupResult>& results, Time lease_until) = 0;
  // A local request to move a tensor is over.
  virtual void FinishMove(uint64_t ticket, const MoveAnswer& answer) = 0;
  // Copy the record from one of these nodes into a prepared record of this op, with prepared_in = the larger one of this
  // node's view and the message's; answer with OnFetched.
  virtual void Fetch(const Pull& pull) = 0;
  // Stop serving this node's cached copy of the name.
  virtual void RecallCopy(std::string_view name) = 0;
  // At the name's home, in the order in which things happened.
  virtual void OnNameEvent(const NameEvent& event) = 0;
  // This home had to rebuild the partition from what members hold: an alert.
  virtual void OnHistoryLost(Partition partition) = 0;
};

}  // namespace penstock::server::directory
