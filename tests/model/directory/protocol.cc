#include "tests/model/directory/protocol.h"

#include <algorithm>

#include "tests/model/directory/monitor.h"
#include "tests/model/directory/wire.h"

namespace model {
namespace {

bool Accept(const Rules& rules, State& s, int n, int term) {
  Node& node = s.nodes[n];
  if (!rules.promise) return true;
  if (term < node.seen) return false;
  Learn(s, n, term);
  return true;
}

bool Active(const Node& node, int term) { return node.phase == kActive && node.seen == term; }

void Reply(State& s, const Message& m, Byte type, Entry entry = {}, Byte a = 0, Byte b = 0, Byte c = 0) {
  Send(s, {type, m.from, m.to, m.term, entry, a, b, c});
}

void SendAnswer(State& s, int home, int writer, Byte op, Byte version, Byte a, Byte verdict, bool listed) {
  Send(s, {kAnswer, Byte(writer), Byte(home), s.nodes[home].seen, {version, op, 0, 0}, a, verdict, Byte(listed)});
}

void AnswerCommitted(State& s, int home, int writer, Byte op, Byte version) {
  const Node& node = s.nodes[home];
  const bool listed = node.entry.version == version && Has(node.entry.holders, writer);
  SendAnswer(s, home, writer, op, version, 0, 1, listed);
}

// ---- an operation at home ----

void Replicate(const Rules& rules, State& s, int home) {
  Node& node = s.nodes[home];
  const int backup = BackupOf(s, node.seen);
  Entry next{node.next_version, node.working, 0, 0};
  if (node.working == kAdd) {
    next = node.entry;
    next.holders |= 1 << node.subject;
    ++next.change;
  } else if (!IsDelete(s, node.working)) {
    next.holders = 1 << node.subject;
  }
  node.best = next;
  node.step = kDecided;
  if (backup >= 0) {
    Send(s, {kReplicateIt, Byte(backup), Byte(home), node.seen, next, node.sequence, 0, 0});
    if (rules.backup) node.step = kReplicate;
  }
  if (node.step == kDecided) Commit(rules, s, home);
}

void SupersedeHolders(const Rules& rules, State& s, int home) {
  Node& node = s.nodes[home];
  node.step = kSupersede;
  node.waiting = IsDelete(s, node.entry.op) ? 0 : node.entry.holders & s.members[node.seen];
  for (int n = 0; n < kNodes; ++n) {
    if (!Has(node.waiting, n)) continue;
    Send(s, {kSupersedeIt, Byte(n), Byte(home), node.seen, {node.entry.version, 0, 0, 0}, node.sequence, 0, 0});
  }
  if (!rules.supersede) node.waiting = 0;
  if (node.waiting == 0) Replicate(rules, s, home);
}

bool Propose(const Rules& rules, State& s, const Message& m) {
  Node& home = s.nodes[m.to];
  const Byte op = m.entry.op;
  if (m.term < home.seen) return true;
  if (!Active(home, m.term)) return false;
  if (rules.epoch && m.a < home.least_epoch[m.from]) return true;
  if (Has(home.done, op)) return AnswerCommitted(s, m.to, m.from, op, home.done_version[op]), true;
  if (home.entry.version != 0 && home.entry.op == op) {
    return AnswerCommitted(s, m.to, m.from, op, home.entry.version), true;
  }
  if (home.working == op) return true;
  if (home.working != 0) return false;
  const Byte newest = std::max(home.entry.version, home.floor);
  home.working = op;
  home.subject = m.from;
  ++home.sequence;
  home.next_version = Version(home.seen, NumberOf(newest) + 1);
  s.operations[op].version = home.next_version;
  // With a lost history home cannot judge conditions: it refuses them, so nothing may be concluded from `before`.
  const bool unsure = home.incomplete && home.entry.version == 0;
  s.operations[op].before = unsure ? home.next_version : newest;
  SupersedeHolders(rules, s, m.to);
  return true;
}

bool Resolve(State& s, const Message& m) {
  Node& home = s.nodes[m.to];
  const Byte op = m.entry.op;
  if (m.term < home.seen) return true;
  if (!Active(home, m.term) || home.working == op) return false;
  const Operation& asked = s.operations[op];
  const Byte newest = std::max(home.entry.version, home.floor);
  if (Has(home.done, op)) {
    AnswerCommitted(s, m.to, m.from, op, home.done_version[op]);
  } else if (home.entry.version != 0 && home.entry.op == op) {
    AnswerCommitted(s, m.to, m.from, op, home.entry.version);
  } else {
    // Whatever is answered, the writer will believe it: what it proposed before must not happen any more.
    const bool older = asked.first_term < home.seen;
    const bool unknown = older && (home.incomplete || TermOf(newest) >= asked.first_term);
    home.least_epoch[m.from] = std::max(home.least_epoch[m.from], m.a);
    SendAnswer(s, m.to, m.from, op, 0, m.a, unknown ? 3 : 2, false);
  }
  return true;
}

void Publish(const Rules& rules, State& s, const Message& m) {
  Node& node = s.nodes[m.to];
  const Byte op = m.entry.op, version = m.entry.version;
  node.prepared &= ~(1 << op);
  if (!IsDelete(s, op) && version > node.version && version >= node.dropped) {
    if (node.version != 0) BeforeDiscard(s, m.to);
    node.version = version;
    node.op = op;
    node.unconfirmed = rules.listed && m.c == 0;
  }
  Operation& done = s.operations[op];
  if (version <= done.floor) Wrong(s, "acknowledged with a version older than what was known before it began");
  done.outcome = kAcknowledged;
  // What is acknowledged late may have been overwritten meanwhile.
  const Byte seen = s.seen_version;
  if (version >= seen) Show(s, op, version);
  else if (done.shown == 0) done.shown = version;
  else if (done.shown != version) Wrong(s, "an operation happened twice");
}

bool Answered(const Rules& rules, State& s, const Message& m) {
  Operation& op = s.operations[m.entry.op];
  if (op.outcome != kPending || !Accept(rules, s, m.to, m.term)) return true;
  if (m.b == 1) {
    Publish(rules, s, m);
  } else if (m.a == op.epoch) {
    op.outcome = m.b == 2 ? kAborted : kUnknown;
    if (op.outcome == kUnknown) s.nodes[m.to].prepared &= ~(1 << m.entry.op);
  }
  return true;
}

// ---- holders ----

void Discard(State& s, int n) {
  BeforeDiscard(s, n);
  Node& node = s.nodes[n];
  node.version = node.op = node.unconfirmed = 0;
}

void DropBelow(State& s, const Message& m) {
  Node& node = s.nodes[m.to];
  node.dropped = std::max(node.dropped, m.a);
  if (node.version != 0 && node.version < m.a) Discard(s, m.to);
}

bool Return(State& s, const Message& m) {
  Node& home = s.nodes[m.to];
  if (m.term < home.seen) return true;
  if (!Active(home, m.term) || home.working != 0) return false;
  const Byte version = m.entry.version;
  if (home.entry.version == version) {
    if (Has(home.entry.holders, m.from)) {
      Reply(s, m, kConfirm, {version, 0, 0, 0}, 1, home.sequence);
      return true;
    }
    home.working = kAdd;
    home.subject = m.from;
    home.next_version = version;
    ++home.sequence;
    return true;  // goes on in Deliver
  }
  if (!home.incomplete) Reply(s, m, kConfirm, {version, 0, 0, 0}, 2, home.sequence);
  return true;
}

void Confirmed(const Rules& rules, State& s, const Message& m) {
  Node& node = s.nodes[m.to];
  if (!Accept(rules, s, m.to, m.term) || node.version != m.entry.version || !node.unconfirmed) return;
  if (m.a == 1) node.unconfirmed = 0;
  else Discard(s, m.to);
}

void Restored(const Rules& rules, State& s, const Message& m) {
  Node& node = s.nodes[m.to];
  if (!Accept(rules, s, m.to, m.term) || node.version != m.entry.version) return;
  const bool overtaken = m.term == node.superseded_term && m.b < node.superseded_sequence;
  if (rules.order && overtaken) return;
  node.superseded = std::min<Byte>(node.superseded, node.version - 1);
}

void SupersedeHere(const Rules& rules, State& s, const Message& m) {
  Node& node = s.nodes[m.to];
  if (!Accept(rules, s, m.to, m.term)) return;
  node.superseded = std::max(node.superseded, m.entry.version);
  node.superseded_term = m.term;
  node.superseded_sequence = std::max(node.superseded_sequence, m.a);
  Reply(s, m, kSuperseded, {}, m.a);
}

// ---- backup ----

bool Newer(const Entry& a, const Entry& b) { return a.version != b.version ? a.version > b.version : a.change > b.change; }

void ReplicateHere(const Rules& rules, State& s, const Message& m) {
  Node& node = s.nodes[m.to];
  if (!Accept(rules, s, m.to, m.term)) return;
  const bool newer = Newer(m.entry, node.entry) && m.entry.version > node.floor;
  if (newer || !rules.once) node.entry = m.entry;
  if (!rules.tombstone && IsDelete(s, m.entry.op)) node.entry = {};
  Reply(s, m, kReplicated, {}, m.a);
}

void SyncHere(const Rules& rules, State& s, const Message& m) {
  Node& node = s.nodes[m.to];
  if (!Accept(rules, s, m.to, m.term)) return;
  if (node.complete < m.term || !rules.once) {
    node.entry = m.entry;
    node.floor = m.a;
    node.incomplete = m.b;
    node.complete = m.term;
  }
  Reply(s, m, kSynced);
}

// ---- becoming home ----

void HandOver(const Rules& rules, State& s, const Message& m) {
  if (!Accept(rules, s, m.to, m.term)) return;
  const Node& node = s.nodes[m.to];
  Reply(s, m, kHandedOver, node.entry, node.complete, node.incomplete && rules.announce_history, node.floor);
}

void TakeEntries(State& s, Node& home, const Entry& entry, Byte complete, bool incomplete, Byte floor) {
  if (complete < home.base || (incomplete && !Has(s.incomplete_terms, home.base))) return;
  if (!home.found || Newer(entry, home.best)) home.best = entry;
  home.found = 1;
  home.best_floor = std::max(home.best_floor, floor);
}

void TakeHolding(Node& home, int n, Byte version, Byte op) {
  if (version == 0 || version < home.best.version) return;
  if (version > home.best.version) home.best = {version, op, 0, 0};
  home.best.holders |= 1 << n;
}

bool SureHolding(const Rules& rules, const Node& node) {
  return node.version != 0 && !node.unconfirmed && (node.version > node.superseded || !rules.sure_holdings);
}

void SendHoldings(const Rules& rules, State& s, const Message& m) {
  if (!Accept(rules, s, m.to, m.term)) return;
  const Node& node = s.nodes[m.to];
  const bool sure = SureHolding(rules, node);
  Reply(s, m, kHolds, {sure ? node.version : Byte(0), node.op, 0, 0});
}

void BackupFirst(const Rules& rules, State& s, int h) {
  Node& home = s.nodes[h];
  home.entry = home.best;
  if (home.entry.version <= home.best_floor) home.entry = {};  // its tombstone has gone at one of them
  home.entry.holders &= rules.since ? Continuous(s, home.base, home.seen) : s.members[home.seen];
  s.committed = std::max(s.committed, home.entry.version);
  home.floor = home.best_floor;
  home.complete = home.seen;
  home.best = {};
  home.best_floor = 0;
  home.found = 0;
  const int backup = BackupOf(s, home.seen);
  home.phase = backup < 0 ? kReady : kSync;
  if (backup < 0) return;
  Send(s, {kSyncBackup, Byte(backup), Byte(h), home.seen, home.entry, home.floor, home.incomplete, 0});
}

void AskHoldings(const Rules& rules, State& s, int h) {
  Node& home = s.nodes[h];
  home.phase = kAnnounce;
  home.incomplete = 1;
  home.best = {};
  home.waiting = s.members[home.seen] & ~(1 << h);
  if (SureHolding(rules, home)) TakeHolding(home, h, home.version, home.op);
  for (int n = 0; n < kNodes; ++n) {
    if (Has(home.waiting, n)) Send(s, {kAskHoldings, Byte(n), Byte(h), home.seen, {}, 0, 0, 0});
  }
  if (home.waiting == 0) BackupFirst(rules, s, h);
}

void HomeHears(const Rules& rules, State& s, const Message& m) {
  Node& home = s.nodes[m.to];
  if (m.term != home.seen) return;
  if (m.type == kSynced) {
    if (home.phase == kSync) home.phase = kReady;
    return;
  }
  home.waiting &= ~(1 << m.from);
  if (m.type == kSuperseded && home.waiting == 0) Replicate(rules, s, m.to);
  if (m.type == kReplicated) {
    home.step = kDecided;
    Commit(rules, s, m.to);
  }
  if (m.type == kHandedOver) {
    TakeEntries(s, home, m.entry, m.a, m.b, m.c);
    if (home.waiting == 0) FinishGathering(rules, s, m.to);
  }
  if (m.type == kHolds) {
    TakeHolding(home, m.from, m.entry.version, m.entry.op);
    if (home.waiting == 0) BackupFirst(rules, s, m.to);
  }
}

}  // namespace

void StopBeingHome(Node& node) {
  node.phase = kNoHome;
  node.base = node.waiting = node.found = node.best_floor = 0;
  node.best = {};
  node.working = node.step = node.sequence = node.subject = node.next_version = node.done = 0;
  node.done_version = {};
  node.least_epoch = {};
}

void Learn(State& s, int n, int term) {
  Node& node = s.nodes[n];
  if (term <= node.seen) return;
  node.seen = static_cast<Byte>(term);
  StopBeingHome(node);
}

void StartGathering(const Rules& rules, State& s, int h) {
  Node& home = s.nodes[h];
  home.phase = kGather;
  home.base = s.active;
  unsigned asked = 1U << HomeOf(s, home.base);
  if (const int backup = BackupOf(s, home.base); backup >= 0) asked |= 1U << backup;
  home.waiting = asked & s.members[home.seen] & ~(1U << h);
  if (Has(asked, h)) {
    TakeEntries(s, home, home.entry, home.complete, home.incomplete && rules.announce_history, home.floor);
  }
  for (int n = 0; n < kNodes; ++n) {
    if (Has(home.waiting, n)) Send(s, {kHandover, Byte(n), Byte(h), home.seen, {}, 0, 0, 0});
  }
  if (home.waiting == 0) FinishGathering(rules, s, h);
}

void FinishGathering(const Rules& rules, State& s, int h) {
  Node& home = s.nodes[h];
  if (!home.found) return AskHoldings(rules, s, h);
  home.incomplete = Has(s.incomplete_terms, home.base);
  BackupFirst(rules, s, h);
}

void Commit(const Rules& rules, State& s, int h) {
  Node& home = s.nodes[h];
  if (home.step != kDecided || (rules.commit_lease && !home.lease)) return;
  const Byte op = home.working, old_holders = home.entry.holders, subject = home.subject;
  home.entry = home.best;
  home.best = {};
  home.working = home.step = home.subject = home.next_version = 0;
  if (op == kAdd) {
    Send(s, {kConfirm, subject, Byte(h), home.seen, {home.entry.version, 0, 0, 0}, 1, home.sequence, 0});
    return;
  }
  home.done |= 1 << op;
  home.done_version[op] = home.entry.version;
  s.committed = std::max(s.committed, home.entry.version);
  for (int n = 0; n < kNodes; ++n) {
    if (Has(old_holders & s.members[home.seen], n)) {
      Send(s, {kDrop, Byte(n), Byte(h), home.seen, {}, home.entry.version, 0, 0});
    }
  }
  AnswerCommitted(s, h, subject, op, home.entry.version);
  if (rules.tombstone || !IsDelete(s, op)) return;
  Show(s, op, home.entry.version);
  home.entry = {};
}

bool Deliver(const Rules& rules, State& s, const Message& m) {
  switch (m.type) {
    case kPropose: return Propose(rules, s, m);
    case kResolve: return Resolve(s, m);
    case kAnswer: return Answered(rules, s, m);
    case kSupersedeIt: return SupersedeHere(rules, s, m), true;
    case kReplicateIt: return ReplicateHere(rules, s, m), true;
    case kDrop: return DropBelow(s, m), true;
    case kHandover: return HandOver(rules, s, m), true;
    case kAskHoldings: return SendHoldings(rules, s, m), true;
    case kSyncBackup: return SyncHere(rules, s, m), true;
    case kReturning: {
      if (!Return(s, m)) return false;
      Node& home = s.nodes[m.to];
      if (home.working == kAdd && home.step == 0) Replicate(rules, s, m.to);
      return true;
    }
    case kConfirm: return Confirmed(rules, s, m), true;
    case kRestore: return Restored(rules, s, m), true;
    default: return HomeHears(rules, s, m), true;
  }
}

}  // namespace model
