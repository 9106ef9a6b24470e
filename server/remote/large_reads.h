// LargeReads: the bytes of a large tensor of another node, read from whoever has them, while others already read them here.
//
// Several nodes that copy one tensor at the same time form a chain (fetch_chains.h): each reads from the node that began before it,
// so the holder sends the tensor about once, and the last of them has it about when the first one has. Where one fails, or
// stalls, its reader goes on with the holder that sent it there, then with the others that hold the tensor, at the bytes that are missing.
//
// Only over the stream lane: by RDMA each node reads from the holder.
//
// Threading:  any thread; Read blocks
// Ownership:  what it is given must outlive it
// Errors:     of the last node that was asked
// Limits:     from kChainBytes on, where there are at least two other nodes; smaller ones come before anybody could follow
#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/directory/ids.h"
#include "server/remote/growing_copies.h"
#include "server/remote/peer_table.h"

namespace penstock::server {

class LargeReads {
 public:
  static constexpr uint64_t kChainBytes = uint64_t{8} << 20;
  // Who sends nothing for so long is left. Further back in the chain one is more patient: what is stuck is left by its reader first.
  static constexpr absl::Duration kStall = absl::Seconds(2);
  static constexpr absl::Duration kStallEach = absl::Milliseconds(250);
  static constexpr uint32_t kMostPatient = 16;  // places

  struct Others {
    NodeUuid self{};
    const PeerTable* peers = nullptr;
    std::function<PeerRef(const NodeUuid&)> named;  // null: not known here
  };
  explicit LargeReads(Others others) : others_(std::move(others)) {}

  struct Wanted {
    PeerNode* holder = nullptr;
    const PeerNode::Found* found = nullptr;  // there
    std::vector<PeerRef> more_holders;       // of the record that this operation made
    directory::OpId op{};
    bool rdma_only = false;
  };
  // To the copy's block. What is missing afterwards, the copy is told, will not come.
  absl::Status Read(const Wanted& wanted, GrowingCopy* copy) const;

 private:
  void ReadFromAhead(const Wanted& wanted, GrowingCopy* copy) const;
  static absl::Status ReadFromMore(PeerNode* holder, const Wanted& wanted, GrowingCopy* copy);
  static absl::Status ReadFrom(PeerNode* peer, const PeerNode::Found& found, bool rdma_only, absl::Duration stall, GrowingCopy* copy);

  const Others others_;
};

}  // namespace penstock::server
