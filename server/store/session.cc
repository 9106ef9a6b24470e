#include "server/store/session.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "proto/errors.h"
#include "proto/strcat.h"
#include "transport/segment/memfd.h"

namespace penstock::server {

namespace {

struct SessionBlob {
  uint64_t id;
  uint64_t opened_ns;
  SessionPeer peer;
  uint8_t token[16];
  uint32_t has_ring;
  uint32_t pin_chunks;
};

absl::StatusOr<PinChunk> MapPinChunk(UniqueFd fd) {
  absl::StatusOr<Mapping> memory = Mapping::MapWritable(fd.get(), layout::kPinChunkBytes);
  if (!memory.ok()) return memory.status();
  return PinChunk{std::move(fd), *std::move(memory)};
}

absl::StatusOr<UniqueFd> MakeMemfd(std::string name, uint64_t bytes) {
  absl::StatusOr<Memfd> memfd = CreateMemfd({.name = std::move(name), .size = bytes, .want = PageKind::kSmall});
  if (!memfd.ok()) return memfd.status();
  return (*std::move(memfd)).TakeFd();
}

}  // namespace

absl::StatusOr<std::shared_ptr<Session>> Session::Create(uint64_t id, const SessionPeer& peer, UniqueFd socket) {
  std::array<uint8_t, 16> token;
  if (getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) {
    return ErrnoStatus(errno, "open session: getrandom");
  }
  std::shared_ptr<Session> session(new Session(id, peer, token, absl::GetCurrentTimeNanos()));
  session->socket_ = std::move(socket);
  return session;
}

absl::StatusOr<std::shared_ptr<Session>> Session::Inherit(warden::InheritedSession inherited) {
  SessionBlob blob;
  if (inherited.blob.size() != sizeof(blob)) return absl::DataLossError(StrCat("session ", inherited.id, ": blob of another size"));
  std::memcpy(&blob, inherited.blob.data(), sizeof(blob));
  const size_t before_pins = blob.has_ring ? 3 : 1;
  if (inherited.fds.size() < before_pins) return absl::DataLossError(StrCat("session ", inherited.id, ": descriptors are missing"));
  std::array<uint8_t, 16> token;
  std::memcpy(token.data(), blob.token, token.size());
  std::shared_ptr<Session> session(new Session(blob.id, blob.peer, token, blob.opened_ns));
  session->inherited = true;
  session->socket_ = std::move(inherited.fds[0]);
  if (blob.has_ring) {
    session->ring_fd_ = std::move(inherited.fds[1]);
    session->eventfd_ = std::move(inherited.fds[2]);
    absl::StatusOr<Mapping> ring = Mapping::MapWritable(session->ring_fd_.get(), layout::kRingBytes);
    if (!ring.ok()) return ring.status();
    session->ring_memory_ = *std::move(ring);
  }
  for (size_t i = before_pins; i < inherited.fds.size(); ++i) {
    absl::StatusOr<PinChunk> chunk = MapPinChunk(std::move(inherited.fds[i]));
    if (!chunk.ok()) return chunk.status();
    session->pins_.push_back(*std::move(chunk));
  }
  return session;
}

absl::Status Session::OpenRing() {
  absl::StatusOr<UniqueFd> fd = MakeMemfd("penstock-ring", layout::kRingBytes);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<Mapping> memory = Mapping::MapWritable(fd->get(), layout::kRingBytes);
  if (!memory.ok()) return memory.status();
  eventfd_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!eventfd_) return ErrnoStatus(errno, "open ring: eventfd");
  ring_fd_ = *std::move(fd);
  ring_memory_ = *std::move(memory);
  layout::RingHeader* header = ring();
  header->magic = layout::kRingMagic;
  header->layout_version = layout::kLayoutVersion;
  header->queue_entries = layout::kQueueEntries;
  header->ring_bytes = layout::kRingBytes;
  header->staging_offset = layout::kRingStagingOffset;
  header->staging_bytes = layout::kStagingBytes;
  header->node_sleeping.store(1);
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> Session::GrowPins() {
  if (pins_.size() >= layout::kMaxPinChunks) {
    return absl::ResourceExhaustedError(StrCat("pins: the session holds ", pins_.size() * layout::kPinsPerChunk,
                                               " pins, the most that one may; release views"));
  }
  absl::StatusOr<UniqueFd> fd = MakeMemfd("penstock-pins", layout::kPinChunkBytes);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<PinChunk> chunk = MapPinChunk(*std::move(fd));
  if (!chunk.ok()) return chunk.status();
  pins_.push_back(*std::move(chunk));
  return static_cast<uint32_t>(pins_.size() - 1);
}

absl::Status Session::AddPinChunk(UniqueFd fd) {
  struct stat st;
  if (pins_.size() >= layout::kMaxPinChunks) return absl::ResourceExhaustedError("fork: too many pin chunks");
  if (fstat(fd.get(), &st) != 0 || static_cast<uint64_t>(st.st_size) != layout::kPinChunkBytes) {
    return absl::InvalidArgumentError(StrCat("fork: a pin chunk must have ", layout::kPinChunkBytes, " bytes"));
  }
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & (F_SEAL_GROW | F_SEAL_SHRINK)) != (F_SEAL_GROW | F_SEAL_SHRINK)) {
    return absl::InvalidArgumentError("fork: a pin chunk must be a memfd sealed against growing and shrinking");
  }
  absl::StatusOr<PinChunk> chunk = MapPinChunk(std::move(fd));
  if (!chunk.ok()) return chunk.status();
  pins_.push_back(*std::move(chunk));
  return absl::OkStatus();
}

std::string Session::Blob() const {
  SessionBlob blob{.id = id, .opened_ns = opened_ns, .peer = peer, .token = {}, .has_ring = has_ring(),
                   .pin_chunks = static_cast<uint32_t>(pins_.size())};
  std::memcpy(blob.token, token.data(), token.size());
  return std::string(reinterpret_cast<const char*>(&blob), sizeof(blob));
}

std::vector<int> Session::Descriptors() const {
  std::vector<int> fds{socket_.get()};
  if (has_ring()) fds.insert(fds.end(), {ring_fd_.get(), eventfd_.get()});
  for (const PinChunk& chunk : pins_) fds.push_back(chunk.fd.get());
  return fds;
}

uint64_t Session::CountPins() const {
  uint64_t count = 0;
  ForEachPin([&](uint64_t) { ++count; });
  return count;
}

}  // namespace penstock::server
