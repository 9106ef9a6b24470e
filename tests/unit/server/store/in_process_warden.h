// InProcessWarden: a WardenClient without a process: real memfds, real seals, kept in a table that a second Store can
// inherit as a restarted node would.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>

#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "server/warden/warden_client.h"
#include "transport/segment/mapping.h"
#include "transport/segment/memfd.h"

namespace penstock::server {

// What outlives a node process.
class WardenMemory {
 public:
  struct Kept {
    warden::Segment segment;
    Mapping mapping;  // the warden's own
  };
  std::map<uint32_t, Kept> segments;
  std::map<uint64_t, warden::InheritedSession> sessions;
  uint32_t next_segment = 1;
  uint64_t fail_after_segments = ~uint64_t{0};  // CreateSegment of data segments fails from then on
};

// Any thread, as WardenClient says; WardenMemory itself is looked at by tests while no node runs.
class InProcessWarden final : public warden::WardenClient {
 public:
  explicit InProcessWarden(WardenMemory* memory) : memory_(memory) {}

  absl::StatusOr<warden::Segment> CreateSegment(const warden::SegmentRequest& request) override {
    std::lock_guard lock(mutex_);
    if (memory_->segments.size() >= memory_->fail_after_segments) return absl::ResourceExhaustedError("no memory left (test)");
    absl::StatusOr<Memfd> memfd = CreateMemfd({.name = "test", .size = request.bytes, .want = PageKind::kSmall});
    if (!memfd.ok()) return memfd.status();
    WardenMemory::Kept kept{.segment = {.id = memory_->next_segment++, .kind = request.kind, .bytes = request.bytes},
                            .mapping = Mapping::MapWritable(memfd->fd(), request.bytes).value()};
    warden::Segment out{.id = kept.segment.id, .kind = request.kind, .bytes = request.bytes,
                        .address = Mapping::MapWritable(memfd->fd(), request.bytes).value().Release()};
    kept.segment.fd = (*std::move(memfd)).TakeFd();
    out.fd = kept.segment.fd.Dup();
    memory_->segments[out.id] = std::move(kept);
    return out;
  }
  absl::Status MarkSealed(uint32_t segment) override {
    std::lock_guard lock(mutex_);
    memory_->segments[segment].segment.sealed = true;
    return absl::OkStatus();
  }
  absl::Status DropSegment(uint32_t segment) override {
    std::lock_guard lock(mutex_);
    memory_->segments.erase(segment);
    return absl::OkStatus();
  }
  absl::Status KeepSession(uint64_t session, const std::string& blob, absl::Span<const int> fds) override {
    std::lock_guard lock(mutex_);
    warden::InheritedSession& kept = memory_->sessions[session];
    kept.id = session;
    kept.blob = blob;
    kept.fds.clear();
    for (int fd : fds) kept.fds.push_back(UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)));
    return absl::OkStatus();
  }
  absl::Status AddSessionFd(uint64_t session, int fd) override {
    std::lock_guard lock(mutex_);
    memory_->sessions[session].fds.push_back(UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)));
    return absl::OkStatus();
  }
  absl::Status DropSession(uint64_t session) override {
    std::lock_guard lock(mutex_);
    memory_->sessions.erase(session);
    return absl::OkStatus();
  }
  absl::Status RestartNode() override { return absl::UnimplementedError("a test has no other process"); }

 private:
  WardenMemory* const memory_;
  std::mutex mutex_;
};

// The context of the next node process on the same memory.
inline warden::NodeContext NextNode(WardenMemory* memory, uint64_t generation) {
  warden::NodeContext context;
  context.generation = generation;
  context.warden = std::make_unique<InProcessWarden>(memory);
  for (auto& [id, kept] : memory->segments) {
    // A mapping of its own, so that a node that is gone cannot touch it: the seal allows no new writable one, hence the
    // kept one is duplicated as the fork would.
    void* copy = mremap(kept.mapping.data(), 0, kept.segment.bytes, MREMAP_MAYMOVE);
    context.segments.push_back({.id = id, .kind = kept.segment.kind, .bytes = kept.segment.bytes, .address = copy,
                                .fd = kept.segment.fd.Dup(), .page_kind = 0, .sealed = kept.segment.sealed});
  }
  for (auto& [id, kept] : memory->sessions) {
    warden::InheritedSession session{.id = id, .blob = kept.blob, .fds = {}};
    for (const UniqueFd& fd : kept.fds) session.fds.push_back(fd.Dup());
    context.sessions.push_back(std::move(session));
  }
  return context;
}

}  // namespace penstock::server
