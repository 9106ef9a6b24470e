// ChannelFollower: keeps this node's mirrors of one peer's channels fed.
//
// One thread with one connection to the peer's data port, in a session of its own there, whatever the number of channels; a
// ChannelMirrors has a second one for large steps, so that small ones do not wait behind them. For each channel kWindow steps
// are asked for at a time: who is slow asks seldom and misses what is overwritten there.
//
// When the connection or the peer's process is lost, it connects again and goes on where it was. If nothing is heard for
// kGrace the mirrors are marked `away`, which their readers are told, until the peer is back.
//
// Threading:  any thread; mirrors are written by its own thread.
// Ownership:  the peer and the channels' memory must outlive it. Lets go of a mirror's memory when nobody reads it any more.
// Errors:     none come out
// Limits:     asleep while there is nothing to follow
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/mutable/mirror.h"
#include "server/mutable/mutable_memory.h"
#include "server/remote/peer_table.h"
#include "transport/stream/step_reader.h"
#include "transport/unique_fd.h"

namespace penstock::server {

class ChannelFollower final : private stream::StepReader::Sink {
 public:
  static constexpr int kWindow = 2;
  static constexpr absl::Duration kGrace = absl::Seconds(2);
  static constexpr absl::Duration kRetry = absl::Milliseconds(100);

  static absl::StatusOr<std::unique_ptr<ChannelFollower>> Start(PeerRef peer, MutableMemory* memory);
  ~ChannelFollower() override { Stop(); }

  void Add(std::shared_ptr<Mirror> mirror);
  // Some mirror may be over (MutableMemory::EndMirrorIfOver).
  void Look();
  // Renews the session. To be called every second; may take as long as a call.
  void Keep();
  void Stop();  // idempotent

 private:
  struct Followed {
    std::shared_ptr<Mirror> mirror;
    uint64_t grant = 0;  // 0: to be opened
    absl::Time open_at;  // not before; MonotonicNow
  };
  using Mirrors = std::map<uint32_t, Followed>;  // by segment

  ChannelFollower(PeerRef peer, MutableMemory* memory) : peer_(std::move(peer)), memory_(memory) {}

  void Run();
  bool TakeNews();  // false: to stop
  void DropOver();
  bool Connect();
  void OpenGrants();
  void TakeOpened(Followed& followed, const absl::StatusOr<PeerNode::Channel>& opened);
  void Await(absl::Duration longest);
  void Lose(const absl::Status& why);
  void Disconnect();
  void CloseMirror(Mirrors::iterator at);
  void GiveBack();
  void SetAway(bool away);
  void JudgeSilence();
  absl::Duration NextOpening() const;
  Mirrors::iterator FindGrant(uint64_t grant);

  // stream::StepReader::Sink
  absl::StatusOr<char*> Begin(uint64_t grant, uint64_t seq, uint64_t nbytes) override;
  void End(uint64_t grant, uint64_t seq) override;
  void Over(uint64_t grant, const absl::Status& why) override;

  const PeerRef peer_;
  MutableMemory* const memory_;
  UniqueFd wake_;
  std::thread thread_;

  std::mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool look_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::shared_ptr<Mirror>> added_ ABSL_GUARDED_BY(mutex_);
  std::optional<PeerNode::Reader> reader_ ABSL_GUARDED_BY(mutex_);  // written by the thread
  std::optional<absl::Status> renewed_ ABSL_GUARDED_BY(mutex_);     // news for the thread

  // The thread's own.
  Mirrors mirrors_;
  std::map<uint64_t, uint32_t> grants_;  // segments
  std::unique_ptr<stream::StepReader> connection_;
  uint64_t receiving_ = 0;      // grant of the step that is under way; 0: none
  std::vector<uint64_t> left_;  // grants to be given back
  bool over_ = false;           // a mirror is, whose step is under way
  absl::Time over_since_ = absl::InfinitePast();
  absl::Time heard_;            // of the peer, last
  bool away_ = false;
};

}  // namespace penstock::server
