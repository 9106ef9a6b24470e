#include "server/directory/reason.h"

namespace penstock::server::directory {
namespace {

const char* WhoWantedIt(ReasonKind kind) {
  switch (kind) {
    case ReasonKind::kUnknown: break;
    case ReasonKind::kPut: return "put here by its client";
    case ReasonKind::kReplica: return "replica";
    case ReasonKind::kRepair: return "repair of a lost copy";
    case ReasonKind::kDrain: return "taken over from a node that drains";
    case ReasonKind::kMove: return "moved here on request";
    case ReasonKind::kCopy: return "copied here on request";
    case ReasonKind::kRebalance: return "taken over from a fuller node";
  }
  return "not known any more (the node's process, or the directory, began anew meanwhile)";
}

bool HasChoice(ReasonKind kind) { return kind != ReasonKind::kUnknown && kind != ReasonKind::kPut; }

}  // namespace

std::string ReasonText(Reason reason) {
  const ReasonParts parts = UnpackReason(reason);
  std::string text = WhoWantedIt(parts.kind);
  if (!HasChoice(parts.kind)) return text;
  text += parts.other_host ? ": other host" : ": same host";
  if (parts.other_zone) text += ", other zone";
  text += ", " + std::to_string(parts.free_percent) + " % free, " + std::to_string(parts.busy_percent) + " % busy";
  if (parts.is_new) text += ", new";
  if (parts.suspect) text += ", suspect";
  return text;
}

}  // namespace penstock::server::directory
