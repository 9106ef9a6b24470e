#include "tests/model/directory/monitor.h"

namespace model {

void Wrong(State& s, const char* why) {
  if (s.wrong == nullptr) s.wrong = why;
}

void Show(State& s, Byte op, Byte version) {
  Operation& shown = s.operations[op];
  if (shown.outcome == kFailed) Wrong(s, "an operation of which the client was told that it failed has happened");
  if (shown.shown != 0 && shown.shown != version) Wrong(s, "an operation happened twice");
  if (version < s.seen_version) Wrong(s, "an older version after a newer one was acknowledged or read");
  if (shown.shown == 0) {
    shown.shown = version;
    for (int other = 0; other <= kOps; ++other) {
      const Byte theirs = s.operations[other].shown;
      if (other != op && theirs == version) Wrong(s, "two operations with one version");
      // Conditions were judged against `before`: nothing may have come between.
      if (shown.version == version && other != op && theirs > shown.before && theirs < version) {
        Wrong(s, "another operation between the version that home judged by and its own");
      }
    }
  }
  if (version > s.seen_version) {
    s.seen_version = version;
    s.seen_op = op;
  }
}

namespace {

struct Answers {
  Byte version = 0;
  bool any = false;
};

void Answer(State& s, Answers& answers, Byte op, Byte version) {
  if (answers.any && answers.version != version) Wrong(s, "two readers are given different versions at the same time");
  answers = {version, true};
  Show(s, op, version);
}

void AnswerNothing(State& s, const Answers& answers) {
  const bool deleted = s.seen_version == 0 || IsDelete(s, s.seen_op);
  if (!deleted || (answers.any && answers.version > s.seen_version)) {
    Wrong(s, "not found, though a tensor was acknowledged or read and not deleted");
  }
}

void CheckHolders(State& s, const Node& home) {
  for (int n = 0; n < kNodes; ++n) {
    const Node& node = s.nodes[n];
    if (!Has(home.entry.holders & s.members[s.view], n) || !node.up || !node.lease || node.seen != home.seen) continue;
    const bool has = node.version == home.entry.version || Has(node.prepared, home.entry.op);
    if (!has) Wrong(s, "a holder that home names does not have the bytes");
  }
}

}  // namespace

void Observe(State& s) {
  Answers answers;
  int homes = 0;
  for (const Node& node : s.nodes) {
    if (!node.up || !node.lease || node.version == 0 || node.unconfirmed || node.version <= node.superseded) continue;
    Answer(s, answers, node.op, node.version);
  }
  for (const Node& node : s.nodes) {
    if (!node.up || !node.lease || node.phase != kActive) continue;
    if (++homes > 1) Wrong(s, "two homes serve");
    if (node.entry.version != 0) {
      Answer(s, answers, node.entry.op, node.entry.version);
      CheckHolders(s, node);
    } else if (!node.incomplete) {
      AnswerNothing(s, answers);
    }
  }
}

void BeforeDiscard(State& s, int n) {
  const Node& node = s.nodes[n];
  if (node.version != 0 && s.committed <= node.version) Wrong(s, "the newest version was given up by a holder");
}

}  // namespace model
