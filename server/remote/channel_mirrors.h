// ChannelMirrors: channels of other nodes, for readers of this one.
//
// A channel that is not here is looked for at the peers. This node then makes memory of the same shape, its *mirror*, follows the
// channel there (channel_follower.h), and readers map the mirror as they map a channel. It goes with its last reader.
//
// Threading:  any thread. Open answers on a thread of its own.
// Ownership:  what it is given must outlive it.
// Errors:     NOT_FOUND only when every peer has said so; UNAVAILABLE names a peer that could not be asked, or whose channel
//             did not come in kPatience; RESOURCE_EXHAUSTED no room here for the mirror, or there for a copy of a step;
//             a transport error if RDMA is required: steps come over the stream lane.
// Limits:     those of RemoteJobs; two threads for each peer whose channels are read.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/mutable/mirror.h"
#include "server/mutable/mutable_memory.h"
#include "server/remote/channel_follower.h"
#include "server/remote/homes.h"
#include "server/remote/peer_table.h"
#include "server/remote/remote_jobs.h"

namespace penstock::server {

class ChannelMirrors {
 public:
  static constexpr absl::Duration kPatience = absl::Seconds(5);
  static constexpr uint64_t kLargeStepBytes = uint64_t{256} << 10;

  ChannelMirrors(MutableMemory* memory, Homes* homes, bool rdma_only);
  ~ChannelMirrors() { Stop(); }

  struct Asking {
    uint64_t session = 0;
    uint64_t opened = 0;  // number of its request
    bool require_rdma = false;
  };
  using Answer = std::function<void(absl::StatusOr<MutableMemory::Opened>)>;
  void Open(const Asking& asking, const MutableSpec& spec, Answer answer);
  // To be called every second.
  void Keep();
  void Stop();  // idempotent

 private:
  // A mirror of an earlier process here: whose channel it is has to be found.
  struct Orphan {
    std::shared_ptr<Mirror> mirror;
    absl::Time since;  // MonotonicNow
  };

  absl::StatusOr<MutableMemory::Opened> OpenNow(const Asking& asking, const MutableSpec& spec);
  absl::StatusOr<MutableMemory::Opened> OpenAt(const PeerRef& peer, const MutableMemory::Facts& facts, const Asking& asking, const MutableSpec& spec);
  static absl::Status AwaitFirst(const MutableMemory::MirrorMemory& memory, const Mirror* made);
  absl::StatusOr<ChannelFollower*> FollowerOf(const PeerRef& peer, uint64_t nbytes);
  void FindHomesOfOrphans();
  bool FindHomeOf(const Orphan& orphan);

  MutableMemory* const memory_;
  Homes* const homes_;
  const bool rdma_only_;

  std::mutex mutex_;
  std::map<std::pair<PeerRef, bool>, std::unique_ptr<ChannelFollower>> followers_ ABSL_GUARDED_BY(mutex_);  // of small and of large steps
  std::mutex finding_;
  std::vector<Orphan> orphans_ ABSL_GUARDED_BY(finding_);
  RemoteJobs jobs_;
};

}  // namespace penstock::server
