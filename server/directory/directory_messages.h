// What the nodes tell each other about names. Plain values; server/directory_link/ puts them on the wire. Never tensor bytes.
//
// Every message may be lost, doubled, late or out of order: who wants an answer asks again, and every question carries what
// its receiver needs to see that it is old (README.md says which field guards what).
//
// Threading:  values
// Ownership:  values
// Errors:     none
// Limits:     lists of entries and records are cut at Config::entries_per_message
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "server/directory/entry.h"
#include "server/directory/ids.h"
#include "server/directory/records.h"

namespace penstock::server::directory {

// ---- one operation on one name ----

struct Conditions {
  bool if_absent = false;
  uint64_t if_version = 0;  // 0: no condition
  uint64_t version = 0;     // the caller's own number, larger than the last; 0: the next one
};

struct PutInfo {
  uint64_t nbytes = 0;
  uint8_t replicas = 1;
  bool cache = false;
  std::string info;
};

// Node that has the client -> home.
struct Propose {
  OpId op;
  Term term = 0;       // under which the home is thought to be active; a home of another term does nothing but say so
  Term first_term = 0;  // the smallest that this op was ever proposed under
  Term since = 0;       // Member::since of the sender as it knows it: a sender that does not know yet that it was away is refused
  uint64_t finished_below = 0;  // the sender's ops below this count are finished: the home may forget them
  bool remove = false;          // a delete
  std::string name;
  Conditions conditions;
  PutInfo info;
  std::vector<NodeId> holders;   // nodes with a prepared record
  std::vector<Reason> reasons;   // why these
};

enum class Outcome : uint8_t {
  kCommitted,
  kConflict,   // a condition failed; nothing changed; `version` is the present one
  kNotFound,   // delete of a name that is not there
  kAborted,    // nothing happened and nothing will
  kAmbiguous,  // it may have happened, and then it is overwritten, or its history is lost
  kElsewhere,  // not home, or not active, or another term (`term`, 0 = not active): ask again
};

struct ProposeAnswer {
  OpId op;
  Partition partition = 0;
  Term term = 0;
  Outcome outcome = Outcome::kElsewhere;
  Version version;
  bool held = true;  // committed: the entry lists the proposer as a holder (else, after a loss of history, it claims)
};

// Home -> old holders (`op` is the operation that made what they hold), and its node's cached copies.
struct Supersede {
  Partition partition = 0;
  Term term = 0;
  uint64_t run = 0;
  std::string name;
  OpId op;
  Version version;
};
struct Recall {
  uint64_t run = 0;
  std::string name;
};
struct RunAck {  // of either
  uint64_t run = 0;
  std::string name;
  bool superseded = false;  // records too; without it, only copies under a name lease
};

struct Replicate {
  Partition partition = 0;
  Term term = 0;
  Entry entry;
};
struct ReplicateAck {
  Partition partition = 0;
  Term term = 0;
  Stamp stamp;
  std::string name;
};

// Home -> the new holders other than the proposer.
struct Committed {
  Partition partition = 0;
  Term term = 0;
  std::string name;
  OpId op;
  Version version;
};
// Home -> old holders: that version is past.
struct Drop {
  std::string name;
  OpId op;
  Version version;
};
// Proposer -> its targets: that put came to nothing.
struct Discard {
  std::string name;
  OpId op;
};

// ---- records whose state is not settled ----

struct ResolveItem {
  Partition partition = 0;
  Term term = 0;
  std::string name;
  OpId op;
  Version version;  // {} for a prepared record
  Term prepared_in = 0;
  uint64_t question = 0;
  bool leaving = false;   // the node wants to get rid of a live record
  bool evicting = false;  // and of a cache tensor even when it is the last copy
  bool damaged = false;   // its bytes are not right: any other copy is better
  Reason reason = 0;      // why it has it
};
struct Resolve {
  uint64_t session = 0;
  uint64_t sequence = 0;  // grows with each of a session's messages of this kind: older ones count no more
  std::vector<ResolveItem> items;
};

enum class VerdictKind : uint8_t { kLive, kDrop, kQuarantine, kElsewhere };
struct Verdict {
  Partition partition = 0;
  Term term = 0;
  std::string name;
  OpId op;
  uint64_t question = 0;
  VerdictKind kind = VerdictKind::kElsewhere;
  Version version;
};
struct Verdicts {
  std::vector<Verdict> items;
};

// A target asks the proposer whether it still works on the put.
struct OpQuery {
  std::string name;
  OpId op;
};
struct OpQueryAnswer {
  std::string name;
  OpId op;
  bool open = false;
};

// ---- reads ----

struct LookupItem {
  uint32_t index = 0;
  std::string name;
};
struct Lookup {
  uint64_t request = 0;
  bool lease = false;  // wants to serve a copy for Config::name_lease
  std::vector<LookupItem> names;
};

enum class LookupStatus : uint8_t { kFound, kAbsent, kLost, kElsewhere };
struct LookupResult {
  LookupStatus status = LookupStatus::kElsewhere;
  Version version;
  OpId op;
  PutInfo info;
  std::vector<NodeId> holders;  // those in the home's view
  std::vector<Reason> reasons;  // why these
};
struct LookupAnswerItem {
  uint32_t index = 0;
  LookupResult result;
};
struct LookupAnswer {
  uint64_t request = 0;
  std::vector<LookupAnswerItem> items;
};

// ---- a partition gets a new home ----

struct HandoverItem {
  Partition partition = 0;
  Term base = 0;  // the last activation
};
// New home -> home and backup of the last activation. Promises all items; `after` continues the first one.
struct HandoverAsk {
  Term view = 0;
  std::vector<HandoverItem> items;
  std::string after;
};
struct HistoryFloor {
  Stamp stamp;            // tombstones up to this were collected
  uint64_t number = 0;    // no version that was forgotten has a larger number
  Term lost_before = 0;   // what happened before this term may be unknown
  bool loss_is_recent = false;  // copies may still be served, under name leases, of what the loss took
};
struct HandoverPart {
  Term view = 0;
  Partition partition = 0;
  bool complete = false;
  bool last = false;
  bool cut = false;   // the answer was cut here: ask on
  std::string after;  // of the question
  HistoryFloor floor;
  std::vector<Entry> entries;
};

// New home of partitions whose history is lost -> all members.
struct AnnounceAsk {
  Term view = 0;
  Term since = 0;  // the receiver's Member::since in that view
  std::vector<Partition> partitions;
  std::string after;
};
struct AnnouncePart {
  Term view = 0;
  Partition partition = 0;
  bool last = false;
  bool cut = false;
  std::string after;
  std::vector<HeldRecord> records;
};

// New home -> new backup.
struct Push {
  Term view = 0;
  Partition partition = 0;
  Term base = 0;
  uint32_t chunk = 0;
  bool last = false;
  HistoryFloor floor;
  std::vector<Entry> entries;
};
struct PushAck {
  Term view = 0;
  Partition partition = 0;
  uint32_t chunk = 0;
};

// Home -> all members, once: saves them a question.
struct Activated {
  Term term = 0;
  std::vector<Partition> partitions;
};

// -> a home whose message was refused: a view promised by this node is newer than its activation. A home that has that view
// (it was home, was not in a view that it never saw, and is again) activates the partition anew.
struct Refused {
  Partition partition = 0;
  Term promised = 0;
};

// ---- copies ----

// -> a target: fetch the record of this op from one of these and prepare it.
struct Pull {
  std::string name;
  OpId op;
  Version version;  // {}: of a put that is still going on; tell the sender with PullDone
  Term view = 0;    // the sender's; the record's prepared_in is at least this
  PutInfo info;
  std::vector<NodeId> from;
  Reason reason = 0;  // why to this target, and for what; of what nobody waits for the target may take its time
  uint64_t offer = 0;  // not 0: of the first of `from`, by which its data port gives the bytes at once; the environment's
};
struct PullDone {
  std::string name;
  OpId op;
  bool ok = false;
  bool going = false;  // not done: it is still on its way
  bool busy = false;   // nor begun: the target has enough to do
};

// Node that was asked -> home: `to` shall have a copy, and unless it is a copy only, one of the others is to let go of it.
struct Move {
  uint64_t request = 0;
  std::string name;
  NodeId to = 0;
  bool copy = false;
};
enum class MoveOutcome : uint8_t {
  kDone,
  kAbsent,    // no such tensor
  kLost,      // every node that had it is gone
  kNoNode,    // `to` is no member
  kDraining,  // `to` is to be emptied
  kFull,      // there is no room at `to`
  kFailed,    // `to` could not make the copy
  kStays,     // the copy is made, and none of the others has let go
  kElsewhere, // not home: ask again
};
struct MoveAnswer {
  uint64_t request = 0;
  MoveOutcome outcome = MoveOutcome::kElsewhere;
  NodeId from = 0;     // who has let go; 0: nobody
  uint64_t bytes = 0;  // that were copied
};
// Home -> a holder: others have it; ask for leave to drop it (ResolveItem::leaving).
struct LetGo {
  std::string name;
  OpId op;
};

// Every node -> all members, about once a second.
struct LoadReport {
  uint64_t free_bytes = 0;
  uint64_t total_bytes = 0;
  uint32_t busy_percent = 0;
};

// ---- tombstones ----

struct Collect {
  Partition partition = 0;
  Term term = 0;
  Stamp upto;
};
struct CollectAck {
  Partition partition = 0;
  Term term = 0;
  Stamp upto;
};

using Message =
    std::variant<Propose, ProposeAnswer, Supersede, Recall, RunAck, Replicate, ReplicateAck, Committed, Drop, Discard,
                 Resolve, Verdicts, OpQuery, OpQueryAnswer, Lookup, LookupAnswer, HandoverAsk, HandoverPart, AnnounceAsk,
                 AnnouncePart, Push, PushAck, Activated, Refused, Pull, PullDone, Collect, CollectAck, Move, MoveAnswer, LetGo,
                 LoadReport>;

}  // namespace penstock::server::directory
