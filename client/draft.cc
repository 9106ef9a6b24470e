// Draft: publish and abort.
#include <utility>

#include "client/put_spec.h"
#include "client/session/fork.h"
#include "client/session/session.h"
#include "proto/strcat.h"
#include "transport/fault_point.h"

namespace penstock {

using client::Session;

Draft::Draft(Draft&& other) noexcept { *this = std::move(other); }

Draft& Draft::operator=(Draft&& other) noexcept {
  if (this == &other) return *this;
  Abort();
  session_ = std::exchange(other.session_, nullptr);
  data_ = std::exchange(other.data_, nullptr);
  nbytes_ = other.nbytes_;
  record_ = other.record_;
  record_seq_ = other.record_seq_;
  segment_ = other.segment_;
  offset_ = other.offset_;
  fork_count_ = other.fork_count_;
  conflict_if_exists_ = other.conflict_if_exists_;
  ttl_ = other.ttl_;
  timeout_ = other.timeout_;
  dtype_ = other.dtype_;
  shape_ = other.shape_;
  info_ = std::move(other.info_);
  return *this;
}

absl::StatusOr<TensorInfo> Draft::Publish() && {
  return std::move(*this).PublishBy([](Draft& draft) {
    const absl::StatusOr<layout::CreateResponse> made =
        draft.session_->Publish(draft.record_, draft.record_seq_, client::Deadline::After(draft.timeout_));
    if (!made.ok()) return made.status();
    draft.info_.version = {made->version_term, made->version_number};
    draft.info_.created = absl::FromUnixNanos(static_cast<int64_t>(made->created_ns));
    draft.info_.nodes = {client::HomeOf(*made, draft.info_.nodes.front())};
    return absl::OkStatus();
  });
}

absl::StatusOr<TensorInfo> Draft::PublishBy(const std::function<absl::Status(Draft&)>& publish) && {
  if (session_ == nullptr) {
    return absl::FailedPreconditionError("publish: the draft was published or aborted before");
  }
  if (fork_count_ != client::ForkList::fork_count()) {
    return absl::FailedPreconditionError(
        StrCat("publish \"", info_.name, "\": the draft belongs to the process that forked"));
  }
  // Before anybody can see the tensor, its writer loses the means to change it.
  session_->segments().WriteProtect(segment_, offset_, nbytes_);
  PENSTOCK_FAULT_POINT("client.publish.protected");
  const absl::Status published = publish(*this);
  std::exchange(session_, nullptr)->Unref();
  data_ = nullptr;
  if (!published.ok()) {
    if (conflict_if_exists_ && absl::IsAlreadyExists(published)) return absl::AbortedError(published.message());
    return published;
  }
  if (ttl_) info_.expires = info_.created + *ttl_;
  return std::move(info_);
}

void Draft::Abort() {
  if (session_ == nullptr) return;
  Session* session = std::exchange(session_, nullptr);
  data_ = nullptr;
  if (fork_count_ == client::ForkList::fork_count()) session->AbortDraft(record_, record_seq_);
  session->Unref();
}

}  // namespace penstock
