// Session: one client's connection to this node, and everything that it holds.
//
// The memory that a client can write (ring, pin chunks) is mapped here too; the node takes every word of it as hostile.
// The session's descriptors are duplicated in the warden, so it outlives the node process.
//
// Threading:  `ring` and `eventfd` belong to the ring thread; the rest is guarded by the store's mutex.
// Ownership:  shared by the store's table and the threads that serve it (ring, control): the mappings must stay until the
//             last of them has let go, which is why it is a shared_ptr everywhere.
// Errors:     Create: ResourceExhausted when memfd or eventfd cannot be made.
// Limits:     kMaxPinChunks chunks of pins.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/layout/ring_layout.h"
#include "server/warden/warden_client.h"
#include "transport/segment/mapping.h"
#include "transport/unique_fd.h"

namespace penstock::server {

struct SessionPeer {
  uint32_t pid = 0;
  uint32_t uid = 0;
  char label[64] = {};
  bool require_rdma = false;  // for bytes of other nodes
};

struct PinChunk {
  UniqueFd fd;
  Mapping memory;
  const std::atomic<uint64_t>* words() const { return reinterpret_cast<const std::atomic<uint64_t>*>(memory.data()); }
};

class Session {
 public:
  // A new session on `socket`, with its first pin chunk. Its ring is opened separately.
  static absl::StatusOr<std::shared_ptr<Session>> Create(uint64_t id, const SessionPeer& peer, UniqueFd socket);
  static absl::StatusOr<std::shared_ptr<Session>> Inherit(warden::InheritedSession inherited);

  absl::Status OpenRing();
  // Adds an empty pin chunk. Returns its number.
  absl::StatusOr<uint32_t> GrowPins();
  // Adds a chunk that the client made (fork hand-over): must be of the right size and size-sealed.
  absl::Status AddPinChunk(UniqueFd fd);

  // What the warden must keep: a blob and descriptors in the order socket, [ring, eventfd], pin chunks.
  std::string Blob() const;
  std::vector<int> Descriptors() const;

  bool has_ring() const { return static_cast<bool>(ring_memory_); }
  layout::RingHeader* ring() const { return reinterpret_cast<layout::RingHeader*>(ring_memory_.data()); }
  char* ring_base() const { return ring_memory_.data(); }
  int ring_fd() const { return ring_fd_.get(); }
  int eventfd() const { return eventfd_.get(); }
  int socket() const { return socket_.get(); }
  const std::vector<PinChunk>& pins() const { return pins_; }
  uint64_t CountPins() const;
  // Each pin; a word whose lowest bit is 0 is none (use_sampler.h).
  template <class Visit>
  void ForEachPin(Visit visit) const {
    for (const PinChunk& chunk : pins_) {
      for (uint32_t i = 0; i < layout::kPinsPerChunk; ++i) {
        if (const uint64_t word = chunk.words()[i].load(std::memory_order_relaxed); word & 1) visit(word);
      }
    }
  }

  const uint64_t id;
  const SessionPeer peer;
  const std::array<uint8_t, 16> token;
  const uint64_t opened_ns;

  // Guarded by the store's mutex.
  absl::flat_hash_set<layout::RecordRef> drafts;
  absl::flat_hash_set<layout::RecordRef> bound;  // live tensors that go when it ends (layout::kRecordBound)
  uint64_t extent_bytes = 0;  // extents that it may write
  bool ended = false;
  bool inherited = false;  // opened by an earlier node process: its requests may come a second time

  std::atomic<uint64_t> requests{0};
  std::atomic<bool> cut_off{false};  // the peer broke the ring's rules

 private:
  Session(uint64_t id, const SessionPeer& peer, const std::array<uint8_t, 16>& token, uint64_t opened_ns)
      : id(id), peer(peer), token(token), opened_ns(opened_ns) {}

  UniqueFd socket_;
  UniqueFd ring_fd_;
  UniqueFd eventfd_;
  Mapping ring_memory_;
  std::vector<PinChunk> pins_;
};

}  // namespace penstock::server
