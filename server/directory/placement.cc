#include "server/directory/placement.h"

#include <algorithm>

namespace penstock::server::directory {

void Placement::Report(NodeId node, const NodeLoad& load, Time now) {
  auto [it, added] = known_.try_emplace(node);
  if (added) it->second.joined = now;
  it->second.load = load;
  it->second.reported = true;
}

void Placement::Suspect(NodeId node, Time now) {
  Known& known = known_[node];
  const Time distrust = kDistrust << std::min(known.failures, 6);
  known.suspect_until = now + std::min(distrust, kLongestDistrust);
  ++known.failures;
}

void Placement::Trust(NodeId node) {
  auto it = known_.find(node);
  if (it == known_.end()) return;
  it->second.failures = 0;
  it->second.suspect_until = 0;
}

void Placement::OnView(const View& view, Time now) {
  absl::erase_if(known_, [&](const auto& item) { return !view.Has(item.first); });
  for (const Member& member : view.members) {
    auto [it, added] = known_.try_emplace(member.id);
    if (added) it->second.joined = now;
  }
}

// Places first: 8 for another zone, 4 for another host, and what is left (at most 3) by space, load and age.
Placement::Score Placement::Rate(const Member& member, const View& view, const std::vector<NodeId>& taken,
                                 uint64_t nbytes, Time now) const {
  auto it = known_.find(member.id);
  const Known known = it == known_.end() ? Known() : it->second;
  const NodeLoad& load = known.load;
  if (IsFull(member.id, nbytes)) return {-1, {}};
  bool own_zone = true, own_host = true;
  for (const NodeId other : taken) {
    const Member* theirs = view.Find(other);
    if (!theirs) continue;
    own_zone &= theirs->zone != member.zone;
    own_host &= theirs->host != member.host;
  }
  const double space =
      known.reported && load.total_bytes ? double(load.free_bytes - nbytes) / double(load.total_bytes) : 1;
  const double idle = 1 - std::clamp(load.busy, 0.0, 1.0);
  const double age = std::clamp(double(now - known.joined) / double(kRampUp), 0.1, 1.0);
  const bool suspect = now < known.suspect_until;
  Score score;
  score.points = 8 * own_zone + 4 * own_host + (2 * space + idle) * age - (suspect ? 16 : 0) + 17;
  score.reason = {.kind = {}, .other_zone = own_zone && !member.zone.empty(), .other_host = own_host, .is_new = age < 1, .suspect = suspect,
                  .free_percent = static_cast<uint8_t>(100 * std::max(0.0, space) + 0.5), .busy_percent = static_cast<uint8_t>(100 * (1 - idle) + 0.5)};
  return score;
}

std::vector<Choice> Placement::Choose(const View& view, const std::vector<NodeId>& exclude, uint64_t nbytes,
                                      size_t count, Time now) const {
  std::vector<Choice> choices;
  std::vector<NodeId> taken = exclude;
  while (choices.size() < count) {
    Score best{-1, {}};
    NodeId node = 0;
    for (const Member& member : view.members) {
      if (!view.IsSteady(member.id) || std::find(taken.begin(), taken.end(), member.id) != taken.end()) continue;
      Score score = Rate(member, view, taken, nbytes, now);
      if (score.points > best.points) {
        best = score;
        node = member.id;
      }
    }
    if (node == 0) break;
    taken.push_back(node);
    choices.push_back({node, best.reason});
  }
  return choices;
}

Reason Placement::Describe(const View& view, NodeId node, const std::vector<NodeId>& others, uint64_t nbytes, ReasonKind kind, Time now) const {
  const Member* member = view.Find(node);
  if (!member) return static_cast<Reason>(kind);
  ReasonParts parts = Rate(*member, view, others, nbytes, now).reason;
  parts.kind = kind;
  return PackReason(parts);
}

bool Placement::IsFull(NodeId node, uint64_t nbytes) const {
  auto it = known_.find(node);
  return it != known_.end() && it->second.reported && it->second.load.free_bytes < nbytes;
}

bool Placement::IsNew(NodeId node, Time now) const {
  auto it = known_.find(node);
  return it == known_.end() || now - it->second.joined < kRampUp;
}

double Placement::Fill(NodeId node) const {
  auto it = known_.find(node);
  if (it == known_.end() || !it->second.reported || it->second.load.total_bytes == 0) return 0;
  return 1 - static_cast<double>(it->second.load.free_bytes) / static_cast<double>(it->second.load.total_bytes);
}

std::optional<Uneven> Placement::MostUneven(const View& view, double difference, uint64_t least) const {
  Uneven uneven;
  for (const Member& member : view.members) {
    auto it = known_.find(member.id);
    if (it == known_.end() || !it->second.reported || it->second.load.total_bytes == 0 || !view.IsSteady(member.id)) continue;
    if (uneven.fuller == 0 || Fill(member.id) > Fill(uneven.fuller)) uneven.fuller = member.id;
    if (uneven.emptier == 0 || Fill(member.id) < Fill(uneven.emptier)) uneven.emptier = member.id;
  }
  if (uneven.fuller == 0) return std::nullopt;
  const double more = Fill(uneven.fuller) - Fill(uneven.emptier);
  const uint64_t space = std::min(known_.find(uneven.fuller)->second.load.total_bytes, known_.find(uneven.emptier)->second.load.total_bytes);
  if (more <= difference || more * static_cast<double>(space) <= static_cast<double>(least)) return std::nullopt;
  uneven.bytes = static_cast<uint64_t>(more * static_cast<double>(space) / 2 + 0.5);
  return uneven;
}

void Placement::Assume(NodeId node, int64_t nbytes) {
  auto it = known_.find(node);
  if (it == known_.end()) return;
  NodeLoad& load = it->second.load;
  const int64_t free = std::max<int64_t>(0, static_cast<int64_t>(load.free_bytes) - nbytes);
  load.free_bytes = std::min(static_cast<uint64_t>(free), load.total_bytes);
}

}  // namespace penstock::server::directory
