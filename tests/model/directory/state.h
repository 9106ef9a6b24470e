// One state of the model of the directory protocol: etcd, the nodes, their operations and the messages under way.
//
// One name (so one partition). Nodes are numbered by their rendezvous order for it: of the members of a view the lowest is
// home, the next is backup. Everything is small and plain, so that a state is hashed and compared as bytes.
//
// Threading:  none
// Limits:     NODES <= 4, OPS <= 3, terms below 8
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>

#ifndef NODES
#define NODES 3
#endif

namespace model {

using Byte = std::uint8_t;

inline constexpr int kNodes = NODES;
inline constexpr int kOps = 3;        // at most; operation 0 is the put that made the first version
inline constexpr int kTerms = 7;      // at most
inline constexpr int kMessages = 20;  // under way at the same moment; more is an error of the model
inline constexpr Byte kAdd = 7;       // as `working`: a holder is being added

// A version is its term and its number; 0 is none.
constexpr Byte Version(int term, int number) { return static_cast<Byte>(term << 4 | number); }
constexpr int TermOf(Byte version) { return version >> 4; }
constexpr int NumberOf(Byte version) { return version & 15; }

struct Entry {
  Byte version = 0, op = 0, holders = 0;
  Byte change = 0;  // counts changes of the holders of one version
};

enum Phase : Byte { kNoHome, kGather, kAnnounce, kSync, kReady, kActive };
enum Step : Byte { kSupersede = 1, kReplicate, kDecided };

struct Node {
  Byte up = 1;
  Byte lease = 1;  // its clock is before serve_until
  Byte seen = 1;   // the newest term that it has seen, and so promised
  // As home or backup.
  Entry entry;
  Byte complete = 0;    // the configuration (a term) whose entries it has
  Byte incomplete = 0;  // the history of those is
  Byte floor = 0;       // version of the last tombstone that was dropped
  // On the way to being home in `seen`, and as home.
  Byte phase = kNoHome;
  Byte base = 0;     // the active configuration that it found
  Byte waiting = 0;  // for these nodes
  Byte found = 0;    // somebody was complete
  Entry best;
  Byte best_floor = 0;
  Byte working = 0;  // the operation in progress
  Byte step = 0;
  Byte sequence = 0;  // of the operation in this term
  Byte subject = 0;   // its writer, or the holder to be added
  Byte next_version = 0;
  Byte done = 0;  // operations committed here in this term
  std::array<Byte, kOps + 1> done_version{};
  std::array<Byte, kNodes> least_epoch{};
  // Its record of the name.
  Byte version = 0, op = 0;
  Byte unconfirmed = 0;
  Byte superseded = 0;  // up to this version
  Byte superseded_term = 0, superseded_sequence = 0;
  Byte dropped = 0;   // below this version
  Byte prepared = 0;  // operations whose bytes it has
};

enum Kind : Byte { kPut, kDelete };
enum Outcome : Byte { kUnused, kPending, kAborted, kAcknowledged, kFailed, kUnknown, kOrphan };

struct Operation {
  Byte kind = kPut, writer = 0;
  Byte outcome = kUnused;
  Byte term = 0, first_term = 0, epoch = 0;
  Byte asked = 0;             // the last that it sent was a question, not a proposal
  Byte floor = 0;             // what had been acknowledged or read when it began
  Byte version = 0, before = 0;  // as a home numbered it, and the version that this home saw before it
  Byte shown = 0;             // the version under which it was acknowledged or read
};

enum Type : Byte {
  kNone, kPropose, kResolve, kAnswer, kSupersedeIt, kSuperseded, kReplicateIt, kReplicated, kDrop, kHandover, kHandedOver,
  kAskHoldings, kHolds, kSyncBackup, kSynced, kReturning, kConfirm, kRestore
};

// Which of the fields a type uses is told where it is sent and where it is delivered.
struct Message {
  Byte type = kNone, to = 0, from = 0, term = 0;
  Entry entry;
  Byte a = 0, b = 0, c = 0;
};

struct State {
  // etcd
  Byte view = 1;
  std::array<Byte, kTerms + 1> members{};
  Byte active = 1;             // the highest configuration
  Byte incomplete_terms = 0;   // bit per term
  // What clients know, in total.
  Byte seen_version = 0;       // the newest that was acknowledged or read
  Byte seen_op = 0;
  Byte committed = 0;          // the newest that any home committed
  Byte ops = 0, faults = 0;
  std::array<Node, kNodes> nodes{};
  std::array<Operation, kOps + 1> operations{};
  std::array<Message, kMessages> messages{};  // ordered, kNone last

  const char* wrong = nullptr;  // the property that this state breaks; not part of its identity
};

inline int Lowest(unsigned mask) { return mask == 0 ? -1 : __builtin_ctz(mask); }
inline int HomeOf(const State& s, int term) { return Lowest(s.members[term]); }
inline int BackupOf(const State& s, int term) {
  const unsigned mask = s.members[term];
  return Lowest(mask & (mask - 1));
}
inline bool Has(unsigned mask, int bit) { return (mask >> bit & 1) != 0; }
// Members of `term` that have been so since `base` without a gap (the view tells since which term each is a member).
inline unsigned Continuous(const State& s, int base, int term) {
  unsigned mask = s.members[term];
  for (int t = base; t < term; ++t) mask &= s.members[t];
  return mask;
}
inline bool IsDelete(const State& s, Byte op) { return s.operations[op].kind == kDelete; }

}  // namespace model
