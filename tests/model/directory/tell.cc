// States and messages for people.
#include "tests/model/directory/protocol.h"

namespace model {
namespace {

std::string V(Byte version) {
  return version == 0 ? "-" : std::to_string(TermOf(version)) + "." + std::to_string(NumberOf(version));
}

constexpr const char* kTypes[] = {"-", "Propose", "Resolve", "Answer", "Supersede", "Superseded", "Replicate", "Replicated",
                                  "Drop", "Handover", "HandedOver", "Announce", "Holds", "Sync", "Synced", "Returning",
                                  "Confirm", "Restore"};

}  // namespace

std::string Tell(const State&, const Message& m) {
  std::string told = std::string(kTypes[m.type]) + "{term " + std::to_string(m.term);
  if (m.entry.op != 0) told += ", op " + std::to_string(m.entry.op);
  if (m.entry.version != 0) told += ", version " + V(m.entry.version);
  if (m.type == kDrop) told += ", below " + V(m.a);
  if (m.type == kAnswer) told += m.b == 1 ? ", committed" : m.b == 2 ? ", not happened" : ", unknown";
  return told + "} " + std::to_string(m.from) + " -> " + std::to_string(m.to);
}

std::string Tell(const State& s) {
  std::string told = "view " + std::to_string(s.view) + " members(mask) " + std::to_string(s.members[s.view]) + ", active " +
                     std::to_string(s.active) + ", newest known " + V(s.seen_version) + "\n";
  for (int n = 0; n < kNodes; ++n) {
    const Node& node = s.nodes[n];
    told += "  node " + std::to_string(n) + (node.up ? "" : " DEAD") + (node.lease ? " lease" : " -") + " seen " +
            std::to_string(node.seen) + " phase " + std::to_string(node.phase) + " entry " + V(node.entry.version) + " (op " +
            std::to_string(node.entry.op) + ", holders " + std::to_string(node.entry.holders) + ") complete " +
            std::to_string(node.complete) + (node.incomplete ? "?" : "") + " working " + std::to_string(node.working) + "/" +
            std::to_string(node.step) + " record " + V(node.version) + (node.unconfirmed ? " unconfirmed" : "") +
            " superseded " + V(node.superseded) + " prepared " + std::to_string(node.prepared) + "\n";
  }
  for (int op = 1; op <= s.ops; ++op) {
    static constexpr const char* kOutcomes[] = {"", "pending", "aborted", "acknowledged", "failed", "unknown", "orphan"};
    const Operation& it = s.operations[op];
    told += "  op " + std::to_string(op) + (it.kind == kPut ? " put" : " delete") + " at " + std::to_string(it.writer) + " " +
            kOutcomes[it.outcome] + " version " + V(it.version) + " shown " + V(it.shown) + "\n";
  }
  for (const Message& m : s.messages) {
    if (m.type != kNone) told += "    " + Tell(s, m) + "\n";
  }
  return told;
}

}  // namespace model
