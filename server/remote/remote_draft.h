// RemoteDraft: a tensor that a writer on another host is filling through the data port.
//
// Kept alive by the writer's session and by every transfer that writes to it; the last to let go aborts it, so its block is
// not handed out while bytes may still arrive. Only what was written as a whole may be published: a block shows what was in
// it before.
//
// Threading:  any thread
// Ownership:  the NodeSession must outlive it
// Errors:     FAILED_PRECONDITION from Publish: bytes are missing; else the store's
// Limits:     ByteCoverage's
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "proto/strcat.h"
#include "server/remote/byte_coverage.h"
#include "server/remote/node_session.h"
#include "transport/lane/lane.h"

namespace penstock::server {

class RemoteDraft : public std::enable_shared_from_this<RemoteDraft> {
 public:
  RemoteDraft(NodeSession* session, std::string name, const Placed& placed, uint64_t nbytes)
      : session_(session), name_(std::move(name)), placed_(placed), nbytes_(nbytes) {}
  ~RemoteDraft() {
    ShareByRdma(nullptr);  // nobody writes there any more
    if (!published_) session_->Abort(placed_);
  }

  GrantedBlock Block() {
    return {placed_.block.address, nbytes_, shared_from_this(),
            [this](const ByteRuns& runs, uint64_t skip, uint64_t length) { Wrote(runs, skip, length); }};
  }
  const std::string& name() const { return name_; }

  // The writer has got a key with which it writes by RDMA, as long as `registration` lives.
  void ShareByRdma(std::shared_ptr<const void> registration) {
    std::lock_guard lock(mutex_);
    registration_ = std::move(registration);
  }
  // So it says: these bytes did not come through this process.
  void WrittenByRdma() {
    std::lock_guard lock(mutex_);
    if (registration_ != nullptr) written_.Add(0, nbytes_);
  }

  // Nobody may be writing any more.
  absl::StatusOr<Published> Publish(LeaseRule leases) {
    {
      std::lock_guard lock(mutex_);
      registration_.reset();
      if (written_.bytes() != nbytes_) {
        return absl::FailedPreconditionError(StrCat("publish: ", written_.bytes(), " of ", nbytes_, " bytes were written; write all of them first"));
      }
    }
    absl::StatusOr<Published> published = session_->Publish(placed_, leases);
    published_ = !IsLeased(published.status());  // or its conditions did not hold, and the store has freed it
    return published;
  }

 private:
  void Wrote(const ByteRuns& runs, uint64_t skip, uint64_t length) {
    std::lock_guard lock(mutex_);
    for (RunCursor at(runs, skip); length > 0;) {
      const RunCursor::Piece piece = at.Next(length);
      written_.Add(piece.offset, piece.offset + piece.length);
      length -= piece.length;
    }
  }

  NodeSession* const session_;
  const std::string name_;
  const Placed placed_;
  const uint64_t nbytes_;
  bool published_ = false;
  std::mutex mutex_;
  std::shared_ptr<const void> registration_ ABSL_GUARDED_BY(mutex_);
  ByteCoverage written_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
