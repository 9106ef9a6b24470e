#include "server/directory/placement.h"

#include <algorithm>

#include "absl/strings/str_format.h"

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
  if (known.reported && load.free_bytes < nbytes) return {-1, "full"};
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
  score.reason = absl::StrFormat("%s, %s, %.0f %% free, %.0f %% busy%s%s", own_zone ? "other zone" : "same zone",
                                 own_host ? "other host" : "same host", 100 * space, 100 * (1 - idle),
                                 age < 1 ? ", new" : "", suspect ? ", suspect" : "");
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
        best = std::move(score);
        node = member.id;
      }
    }
    if (node == 0) break;
    taken.push_back(node);
    choices.push_back({node, std::move(best.reason)});
  }
  return choices;
}

}  // namespace penstock::server::directory
