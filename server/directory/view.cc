#include "server/directory/view.h"

#include <algorithm>

namespace penstock::server::directory {
namespace {

// The finalizer of MurmurHash3: every bit of the input moves every bit of the output.
uint64_t Mix(uint64_t value) {
  value ^= value >> 33;
  value *= 0xff51afd7ed558ccdULL;
  value ^= value >> 33;
  value *= 0xc4ceb9fe1a85ec53ULL;
  return value ^ (value >> 33);
}

uint64_t Weight(NodeId node, Partition partition) {
  return Mix(node ^ Mix(partition + 0x9e3779b97f4a7c15ULL));
}

}  // namespace

const Member* View::Find(NodeId id) const {
  for (const Member& member : members) {
    if (member.id == id) return &member;
  }
  return nullptr;
}

const Member* View::FindSession(uint64_t session) const {
  for (const Member& member : members) {
    if (member.session == session) return &member;
  }
  return nullptr;
}

size_t View::CountUp() const {
  return std::count_if(members.begin(), members.end(), [](const Member& m) { return !m.draining; });
}

size_t View::CountSteady() const {
  const size_t up = CountUp();
  return up ? up : members.size();
}

bool View::IsSteady(NodeId id) const {
  const Member* member = Find(id);
  return member && (!member->draining || CountUp() == 0);
}

Partition PartitionOf(std::string_view name, uint32_t partition_count) {
  uint64_t hash = 0xcbf29ce484222325ULL;  // FNV-1a
  for (const char letter : name) hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3ULL;
  return static_cast<Partition>(Mix(hash) % partition_count);
}

Assignment::Assignment(const View& view, uint32_t partition_count) {
  std::vector<NodeId> nodes;
  for (const Member& member : view.members) {
    if (!member.draining) nodes.push_back(member.id);
  }
  if (nodes.empty()) {
    for (const Member& member : view.members) nodes.push_back(member.id);
  }
  homes_.resize(partition_count);
  backups_.resize(partition_count);
  for (Partition p = 0; p < partition_count; ++p) {
    uint64_t best = 0, second = 0;
    for (const NodeId node : nodes) {
      const uint64_t weight = Weight(node, p);
      if (homes_[p] == 0 || weight > best) {
        second = best;
        backups_[p] = homes_[p];
        best = weight;
        homes_[p] = node;
      } else if (backups_[p] == 0 || weight > second) {
        second = weight;
        backups_[p] = node;
      }
    }
  }
}

}  // namespace penstock::server::directory
