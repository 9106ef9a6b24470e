#include "server/remote/node_session.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "proto/strcat.h"
#include "transport/fd_socket/fd_socket.h"
#include "transport/monotonic.h"

namespace penstock::server {

absl::StatusOr<std::shared_ptr<Session>> NodeSession::Open() {
  std::lock_guard lock(mutex_);
  if (session_ != nullptr) return session_;
  auto pair = SocketPair();
  if (!pair.ok()) return pair.status();
  SessionPeer self{.pid = static_cast<uint32_t>(getpid()), .uid = static_cast<uint32_t>(getuid())};
  label_.copy(self.label, sizeof(self.label) - 1);
  auto session = store_->OpenSession(self, std::move(pair->first));
  if (!session.ok()) return session.status();
  session_ = *std::move(session);
  peer_ = std::move(pair->second);
  return session_;
}

absl::StatusOr<Placed> NodeSession::Reserve(CreateSpec spec, absl::Duration longest) {
  const absl::StatusOr<std::shared_ptr<Session>> session = Open();
  if (!session.ok()) return session.status();
  spec.in_arena = true;
  const absl::Time deadline = MonotonicNow() + longest;
  while (true) {
    const uint64_t epoch = store_->change_epoch();
    absl::StatusOr<Placed> placed = store_->Reserve(**session, spec);
    if (!placed.ok() || placed->kind == Placed::Kind::kPlaced) return placed;
    const absl::Duration left = deadline - MonotonicNow();
    if (left <= absl::ZeroDuration() && !store_->MakesRoom()) {
      return absl::ResourceExhaustedError(StrCat("'", spec.name, "': no room for ", spec.nbytes, " bytes on this node, and none came in ",
                                                 absl::FormatDuration(longest)));
    }
    store_->WaitForChange(epoch, std::clamp(left, absl::Milliseconds(1), absl::Milliseconds(100)));
  }
}

absl::StatusOr<Published> NodeSession::Publish(const Placed& draft, LeaseRule leases) {
  const absl::StatusOr<std::shared_ptr<Session>> session = Open();
  if (!session.ok()) return session.status();
  if (absl::Status s = FinishChecksum(draft.checksum, draft.block.address, draft.nbytes); !s.ok()) {
    Abort(draft);
    return s;
  }
  if (publisher_) return publisher_(*session, draft);
  return store_->Publish(**session, draft.record, draft.record_seq, leases);
}

absl::StatusOr<Store::TakenDraft> NodeSession::Take(const Placed& draft) {
  const absl::StatusOr<std::shared_ptr<Session>> session = Open();
  if (!session.ok()) return session.status();
  if (absl::Status s = FinishChecksum(draft.checksum, draft.block.address, draft.nbytes); !s.ok()) return s;
  return store_->TakeDraft(**session, draft.record, draft.record_seq);
}

absl::StatusOr<Store::HeldTensor> NodeSession::Hold(const Placed& draft) {
  const absl::StatusOr<std::shared_ptr<Session>> session = Open();
  if (!session.ok()) return session.status();
  return store_->HoldDraft(**session, draft.record, draft.record_seq);
}

void NodeSession::Abort(const Placed& draft) {
  if (const auto session = Open(); session.ok()) (void)store_->Abort(**session, draft.record, draft.record_seq);
}

}  // namespace penstock::server
