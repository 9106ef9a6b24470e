#include "server/remote/large_reads.h"

#include <algorithm>

#include "proto/strcat.h"
#include "transport/fault_point.h"

namespace penstock::server {

absl::Status LargeReads::Read(const Wanted& wanted, GrowingCopy* copy) const {
  ReadFromAhead(wanted, copy);
  // Where there are others, one that does not move is left.
  const absl::Duration stall = wanted.more_holders.empty() ? absl::InfiniteDuration() : 2 * kStall;
  absl::Status status = ReadFrom(wanted.holder, *wanted.found, wanted.rdma_only, stall, copy);
  for (size_t i = 0; !status.ok() && i < wanted.more_holders.size(); ++i) {
    if (wanted.more_holders[i].get() != wanted.holder) status = ReadFromMore(wanted.more_holders[i].get(), wanted, copy);
  }
  if (!status.ok()) copy->Fail(status);
  return status;
}

// Whatever does not come from there is read elsewhere.
void LargeReads::ReadFromAhead(const Wanted& wanted, GrowingCopy* copy) const {
  const bool by_stream = !wanted.rdma_only && wanted.found->rdma == nullptr && wanted.found->lane->name() == "stream";
  if (!by_stream || others_.peers->count() < 2) return;
  const absl::StatusOr<PeerNode::Chain> chain = wanted.holder->JoinChain(*wanted.found, others_.self);
  if (!chain.ok() || !chain->ahead) return;
  const PeerRef ahead = others_.named(*chain->ahead);
  if (ahead == nullptr) return;
  const absl::StatusOr<PeerNode::Found> found = ahead->LocateCopy(wanted.found->info);
  if (!found.ok()) return;
  PENSTOCK_FAULT_POINT("node.chain.located");
  (void)ReadFrom(ahead.get(), *found, false, kStall + std::min(chain->ahead_count, kMostPatient) * kStallEach, copy);
  const PeerNode::Found* const released[] = {&*found};
  ahead->Release(released);
}

absl::Status LargeReads::ReadFromMore(PeerNode* holder, const Wanted& wanted, GrowingCopy* copy) {
  const std::vector<PeerNode::Wanted> asked = {{.name = wanted.found->info.name(), .op = wanted.op}};
  const std::vector<absl::StatusOr<PeerNode::Found>> found = holder->Locate(asked);
  if (!found[0].ok()) return found[0].status();
  absl::Status status = absl::DataLossError(StrCat("'", asked[0].name, "': its holders do not agree on its size"));
  if (found[0]->info.nbytes() == copy->held().info.nbytes()) status = ReadFrom(holder, *found[0], wanted.rdma_only, absl::InfiniteDuration(), copy);
  const PeerNode::Found* const released[] = {&*found[0]};
  holder->Release(released);
  return status;
}

absl::Status LargeReads::ReadFrom(PeerNode* peer, const PeerNode::Found& found, bool rdma_only, absl::Duration stall, GrowingCopy* copy) {
  PeerNode::Reading reading{.found = &found, .to = const_cast<char*>(copy->held().data), .rdma_only = rdma_only, .parts = copy->Missing(),
                            .arrived = [copy](uint64_t begin, uint64_t end) { copy->Arrived(begin, end); }, .stall = stall};
  if (reading.parts.empty()) return absl::OkStatus();
  peer->Read(absl::MakeSpan(&reading, 1));
  if (!reading.status.ok()) return reading.status;
  for (const auto& [begin, end] : reading.parts) copy->Arrived(begin, end);  // by RDMA they came unseen
  return absl::OkStatus();
}

}  // namespace penstock::server
