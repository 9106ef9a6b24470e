// All that can happen next.
#include "tests/model/directory/monitor.h"
#include "tests/model/directory/protocol.h"
#include "tests/model/directory/wire.h"

namespace model {
namespace {

std::string With(const char* what, int n) { return std::string(what) + " " + std::to_string(n); }

void Done(Successors& out, State next, const std::string& what) {
  Tidy(out.rules, next);
  Observe(next);
  out.emit(what, next);
}

bool SomebodyLives(const State& s, unsigned members) {
  for (int n = 0; n < kNodes; ++n) {
    if (Has(members, n) && s.nodes[n].up) return true;
  }
  return false;
}

void NewView(State& s, unsigned members) {
  ++s.view;
  s.members[s.view] = static_cast<Byte>(members);
}

// ---- the world ----

void Crash(State& s, int n) {
  for (Operation& op : s.operations) {
    if (op.writer == n && (op.outcome == kPending || op.outcome == kAborted)) op.outcome = kOrphan;
  }
  s.nodes[n] = Node{};
  s.nodes[n].up = s.nodes[n].lease = s.nodes[n].seen = 0;
}

void Faults(Successors& out, const State& s) {
  if (s.faults >= out.bounds.faults) return;
  for (int n = 0; n < kNodes; ++n) {
    if (!s.nodes[n].up) continue;
    State next = s;
    ++next.faults;
    if (s.nodes[n].lease) {
      next.nodes[n].lease = 0;
      Done(out, next, out.names ? With("the lease ends of", n) : "");
    }
    next = s;
    ++next.faults;
    Crash(next, n);
    Done(out, next, out.names ? With("crash of", n) : "");
    if (!out.rules.lease && Has(s.members[s.view], n) && s.view < out.bounds.terms &&
        SomebodyLives(s, s.members[s.view] & ~(1U << n))) {
      next = s;
      ++next.faults;
      NewView(next, s.members[s.view] & ~(1U << n));
      Done(out, next, out.names ? With("a view without (its lease lasts)", n) : "");
    }
  }
}

void Losses(Successors& out, const State& s) {
  if (!out.bounds.loss || s.faults >= out.bounds.faults) return;
  for (int i = 0; i < kMessages && s.messages[i].type != kNone; ++i) {
    State next = s;
    ++next.faults;
    next.messages[i] = Message{};
    Done(out, next, out.names ? "lost: " + Tell(s, s.messages[i]) : "");
    next = s;
    ++next.faults;
    if (Deliver(out.rules, next, s.messages[i])) {
      Done(out, next, out.names ? "delivered, and it will come again: " + Tell(s, s.messages[i]) : "");
    }
  }
}

void Views(Successors& out, const State& s) {
  if (s.view >= out.bounds.terms) return;
  const unsigned members = s.members[s.view];
  unsigned out_of_lease = 0;
  for (int n = 0; n < kNodes; ++n) {
    if (Has(members, n) && !s.nodes[n].lease) out_of_lease |= 1U << n;
  }
  for (unsigned gone = out_of_lease; gone != 0; gone = (gone - 1) & out_of_lease) {
    if (!SomebodyLives(s, members & ~gone)) continue;
    State next = s;
    NewView(next, members & ~gone);
    ++out.progress;
    Done(out, next, out.names ? With("a view of the members (mask)", static_cast<int>(members & ~gone)) : "");
  }
  for (int n = 0; n < kNodes; ++n) {
    if (Has(members, n)) continue;
    State next = s;
    NewView(next, members | 1U << n);
    Node& node = next.nodes[n];
    if (!node.up) node = Node{};
    node.seen = 0;
    Learn(next, n, next.view);
    StopBeingHome(node);
    node.lease = 1;
    if (node.version != 0 && out.rules.confirm) node.unconfirmed = 1;
    ++out.progress;
    Done(out, next, out.names ? With(s.nodes[n].up ? "back with its state:" : "back, empty:", n) : "");
  }
}

// ---- nodes ----

void TalkToEtcd(Successors& out, const State& s, int n) {
  const Node& node = s.nodes[n];
  if (!node.lease && Has(s.members[s.view], n)) {
    State next = s;
    next.nodes[n].lease = 1;
    Learn(next, n, s.view);
    ++out.progress;
    Done(out, next, out.names ? With("the lease is back, still in the view:", n) : "");
  }
  if (node.lease && node.seen < s.view) {
    State next = s;
    Learn(next, n, s.view);
    ++out.progress;
    Done(out, next, out.names ? With("learns of the newest view:", n) : "");
  }
  if (node.phase == kNoHome && HomeOf(s, node.seen) == n && node.lease && s.active < node.seen) {
    State next = s;
    StartGathering(out.rules, next, n);
    ++out.progress;
    Done(out, next, out.names ? With("begins to be home:", n) : "");
  }
  if (node.phase == kReady && (!out.rules.conditional || s.view == node.seen)) {
    State next = s;
    next.active = std::max(s.active, node.seen);
    if (node.incomplete) next.incomplete_terms |= 1 << node.seen;
    next.nodes[n].phase = kActive;
    ++out.progress;
    Done(out, next, out.names ? With("activates its term and serves:", n) : "");
  }
}

void Home(Successors& out, const State& s, int n) {
  const Node& node = s.nodes[n];
  if (node.phase != kActive) return;
  if (node.working != 0 && node.step == kDecided) {
    State next = s;
    Commit(out.rules, next, n);
    if (next.nodes[n].working == 0) {
      ++out.progress;
      Done(out, next, out.names ? With("commits, its lease being back:", n) : "");
    }
  }
  for (int h = 0; h < kNodes && node.working == 0 && node.entry.version != 0; ++h) {
    const Node& holder = s.nodes[h];
    const bool waits = holder.up && holder.version == node.entry.version && holder.superseded >= holder.version;
    if (!waits || !Has(node.entry.holders, h) || UnderWay(s, kRestore, h, n)) continue;
    State next = s;
    Send(next, {kRestore, Byte(h), Byte(n), node.seen, {node.entry.version, 0, 0, 0}, 0, node.sequence, 0});
    ++out.progress;
    Done(out, next, out.names ? With("home tells that its record counts again:", h) : "");
  }
  const bool nobody_absent = s.members[node.seen] == (1 << kNodes) - 1;
  if (out.bounds.tombstones_go && nobody_absent && node.working == 0 && node.entry.version != 0 &&
      IsDelete(s, node.entry.op)) {
    State next = s;
    next.nodes[n].floor = node.entry.version;
    next.nodes[n].entry = {};
    Done(out, next, out.names ? With("the tombstone goes at", n) : "");
  }
}

void Holder(Successors& out, const State& s, int n) {
  const Node& node = s.nodes[n];
  const int home = HomeOf(s, node.seen);
  if (node.version == 0 || !node.unconfirmed || !node.lease) return;
  if (UnderWay(s, kReturning, home, n) || UnderWay(s, kConfirm, n, home)) return;
  const Node& to = s.nodes[home];
  if (!to.up || to.seen > node.seen || (to.phase == kActive && to.incomplete && to.entry.version != node.version)) return;
  if (to.working == kAdd && to.subject == n) return;
  State next = s;
  Send(next, {kReturning, Byte(home), Byte(n), node.seen, {node.version, 0, 0, 0}, 0, 0, 0});
  ++out.progress;
  Done(out, next, out.names ? With("asks home about its unconfirmed record:", n) : "");
}

// What was lost is sent again.
void Again(Successors& out, const State& s, int n) {
  const Node& node = s.nodes[n];
  if (!out.bounds.loss || node.phase == kNoHome || node.phase == kReady) return;
  const auto again = [&](int to, Byte type, Byte answer, const Entry& entry, Byte a, Byte b) {
    if (to < 0 || !s.nodes[to].up || s.nodes[to].seen > node.seen) return;
    if (UnderWay(s, type, to, n) || UnderWay(s, answer, n, to)) return;
    State next = s;
    Send(next, {type, Byte(to), Byte(n), node.seen, entry, a, b, 0});
    ++out.progress;
    Done(out, next, out.names ? With("says again what was lost, to", to) : "");
  };
  const int backup = BackupOf(s, node.seen);
  if (node.phase == kSync) again(backup, kSyncBackup, kSynced, node.entry, node.floor, node.incomplete);
  if (node.working != 0 && node.step == kReplicate) again(backup, kReplicateIt, kReplicated, node.best, node.sequence, 0);
  for (int to = 0; to < kNodes; ++to) {
    if (!Has(node.waiting, to)) continue;
    if (node.phase == kGather) again(to, kHandover, kHandedOver, {}, 0, 0);
    if (node.phase == kAnnounce) again(to, kAskHoldings, kHolds, {}, 0, 0);
    if (node.working != 0 && node.step == kSupersede) {
      again(to, kSupersedeIt, kSuperseded, {node.entry.version, 0, 0, 0}, node.sequence, 0);
    }
  }
}

// ---- writers ----

void Ask(State& s, int op, Byte type) {
  Operation& asking = s.operations[op];
  const Byte term = s.nodes[asking.writer].seen;
  asking.term = term;
  asking.asked = type == kResolve;
  const Entry subject{0, Byte(op), 0, 0};
  Send(s, {type, Byte(HomeOf(s, term)), asking.writer, term, subject, asking.epoch, 0, 0});
}

void Begin(Successors& out, const State& s) {
  if (s.ops >= out.bounds.ops) return;
  for (int writer = 0; writer < kNodes; ++writer) {
    if (!s.nodes[writer].up) continue;
    for (const Kind kind : {kPut, kDelete}) {
      State next = s;
      const int op = ++next.ops;
      next.operations[op].kind = kind;
      next.operations[op].writer = static_cast<Byte>(writer);
      next.operations[op].outcome = kPending;
      next.operations[op].floor = s.seen_version;
      next.operations[op].first_term = s.nodes[writer].seen;
      if (kind == kPut) next.nodes[writer].prepared |= 1 << op;
      Ask(next, op, kPropose);
      Done(out, next, out.names ? With(kind == kPut ? "put" : "delete", op) + With(" through", writer) : "");
    }
  }
}

bool NothingUnderWay(const State& s, int op) {
  for (const Message& m : s.messages) {
    if ((m.type == kPropose || m.type == kResolve || m.type == kAnswer) && m.entry.op == op) return false;
  }
  for (const Node& node : s.nodes) {
    if (node.working == op) return false;
  }
  return true;
}

// A writer asks what became of its operation: in a newer term, when nothing more can come, or (a fault) out of impatience.
void Wonder(Successors& out, const State& s, int op) {
  const Operation& it = s.operations[op];
  const Node& writer = s.nodes[it.writer];
  const Node& home = s.nodes[HomeOf(s, writer.seen)];
  if (!home.up || home.seen > writer.seen) return;
  const bool due = writer.seen > it.term || NothingUnderWay(s, op);
  if (!due && (it.asked || it.epoch > 0 || s.faults >= out.bounds.faults)) return;
  State next = s;
  if (due) ++out.progress;
  else ++next.faults;
  if (!it.asked) ++next.operations[op].epoch;
  Ask(next, op, kResolve);
  Done(out, next, out.names ? With(due ? "its writer asks what became of" : "its writer is impatient and asks what became of", op) : "");
}

void Writers(Successors& out, const State& s) {
  for (int op = 1; op <= s.ops; ++op) {
    const Operation& it = s.operations[op];
    if (it.outcome == kPending) Wonder(out, s, op);
    if (it.outcome == kAborted) {
      State next = s;
      next.operations[op].outcome = kFailed;
      next.nodes[it.writer].prepared &= ~(1 << op);
      ++out.progress;
      Done(out, next, out.names ? With("its client is told that it failed:", op) : "");
      next = s;
      next.operations[op].outcome = kPending;
      if (out.rules.new_epoch) ++next.operations[op].epoch;
      Ask(next, op, kPropose);
      Done(out, next, out.names ? With("its writer proposes again", op) : "");
    }
  }
}

}  // namespace

void Expand(Successors& out, const State& s) {
  for (int i = 0; i < kMessages && s.messages[i].type != kNone; ++i) {
    State next = s;
    next.messages[i] = Message{};
    if (!Deliver(out.rules, next, s.messages[i])) continue;
    ++out.progress;
    Done(out, next, out.names ? Tell(s, s.messages[i]) : "");
  }
  for (int n = 0; n < kNodes; ++n) {
    if (!s.nodes[n].up) continue;
    TalkToEtcd(out, s, n);
    Home(out, s, n);
    Holder(out, s, n);
    Again(out, s, n);
  }
  Writers(out, s);
  Views(out, s);
  Begin(out, s);
  Faults(out, s);
  Losses(out, s);
}

}  // namespace model
