#include "tests/model/directory/wire.h"

#include <algorithm>

#include "tests/model/directory/monitor.h"

namespace model {
namespace {

bool ForHome(Byte type) {
  return type == kSuperseded || type == kReplicated || type == kHandedOver || type == kHolds || type == kSynced;
}

bool Useless(const Rules& rules, const State& s, const Message& m) {
  const Node& to = s.nodes[m.to];
  if (m.type == kNone || !to.up) return true;
  if (ForHome(m.type)) {
    static constexpr Byte kWanted[] = {kActive, kActive, kGather, kAnnounce, kSync};
    static constexpr Byte kTypes[] = {kSuperseded, kReplicated, kHandedOver, kHolds, kSynced};
    const Byte wanted = kWanted[std::find(kTypes, kTypes + 5, m.type) - kTypes];
    if (m.term != to.seen || to.phase != wanted) return true;
    if (m.type == kSuperseded) return to.working == 0 || to.step != kSupersede || m.a != to.sequence;
    if (m.type == kReplicated) return to.working == 0 || to.step != kReplicate || m.a != to.sequence;
    return false;
  }
  if (m.type == kDrop) return to.dropped >= m.a;
  if (m.type == kAnswer) {
    const Operation& op = s.operations[m.entry.op];
    if (op.outcome != kPending) return true;
    if (m.b != 1 && m.a != op.epoch) return true;
  }
  if (m.type == kPropose || m.type == kResolve) {
    if (s.operations[m.entry.op].outcome == kOrphan && m.type == kResolve) return true;
    return m.term < to.seen;
  }
  return rules.promise && m.term < to.seen;
}

}  // namespace

void Send(State& s, const Message& message) {
  for (Message& slot : s.messages) {
    if (slot.type == kNone) {
      slot = message;
      return;
    }
  }
  Wrong(s, "the model's own bound: too many messages under way");
}

bool UnderWay(const State& s, Byte type, int to, int from) {
  return std::any_of(s.messages.begin(), s.messages.end(),
                     [=](const Message& m) { return m.type == type && m.to == to && m.from == from; });
}

void Tidy(const Rules& rules, State& s) {
  for (Message& m : s.messages) {
    if (m.type != kNone && Useless(rules, s, m)) m = Message{};
  }
  std::sort(s.messages.begin(), s.messages.end(),
            [](const Message& a, const Message& b) { return std::memcmp(&a, &b, sizeof a) > 0; });
  // The same message twice has one effect more only where its receiver does not know it again: see Bounds::loss.
  const auto end = std::unique(s.messages.begin(), s.messages.end(),
                               [](const Message& a, const Message& b) { return std::memcmp(&a, &b, sizeof a) == 0; });
  std::fill(end, s.messages.end(), Message{});
}

}  // namespace model
