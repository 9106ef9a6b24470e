#include "client/internal_names.h"

#include <cstring>
#include <random>
#include <utility>

#include "client/connection.h"
#include "penstock/dtype.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::client {

namespace {

// The bytes that one timeout must suffice for.
constexpr uint64_t kPutAtOnce = 256u << 20;

size_t CountFor(absl::Span<const PutRequest> requests) {
  uint64_t bytes = 0;
  size_t count = 0;
  while (count < requests.size() && bytes < kPutAtOnce) {
    const ConstTensorRef& tensor = requests[count++].tensor;
    bytes += ByteSize(tensor.dtype, tensor.shape).value_or(0);
  }
  return count;
}

v1::CommitRequest RequestOf(const InternalNames::Kept& kept) {
  v1::CommitRequest request;
  request.set_keep_prefix(kept.prefix);
  for (const InternalNames::Staged& staged : kept.staged) {
    v1::CommitRequest::Staged* to = request.add_staged();
    to->set_prefix(staged.prefix);
    to->mutable_numbers()->Add(staged.numbers.begin(), staged.numbers.end());
  }
  return request;
}

}  // namespace

std::string NewId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 32; ++i) id += "0123456789abcdef"[random() % 16];
  return id;
}

absl::StatusOr<TensorInfo> InternalNames::PutText(std::string_view name, std::string_view text, layout::Purpose purpose,
                                                  std::optional<uint64_t> if_version) {
  const PutRequest request{name, {.data = text.data(), .dtype = DType::kU8, .shape = Shape({static_cast<int64_t>(text.size())}), .strides = {}}};
  PutOptions options;
  options.if_version = if_version;
  return std::move(PutMany(*connection_, purpose, {&request, 1}, options)[0]);
}

absl::StatusOr<Session*> InternalNames::BoundSession() {
  const absl::StatusOr<Session*> live = connection_->Live(connection_->DefaultDeadline());
  if (!live.ok()) return live;
  if (session_ == nullptr) session_ = *live;
  if (session_ == *live) return session_;
  return absl::AbortedError("the session that had put tensors has ended, and they with it; begin again");
}

absl::StatusOr<std::string> InternalNames::BoundSessionName() {
  const absl::StatusOr<Session*> session = BoundSession();
  if (!session.ok()) return session.status();
  return StrCat((*session)->catalog().node_uuid(), "/", (*session)->id());
}

absl::Status InternalNames::PutBound(absl::Span<const PutRequest> requests, size_t* failed, std::optional<absl::Duration> ttl) {
  *failed = 0;
  PutOptions options;
  options.ttl = ttl;
  if (const absl::StatusOr<Session*> before = BoundSession(); !before.ok()) return before.status();
  while (*failed < requests.size()) {
    const absl::Span<const PutRequest> some = requests.subspan(*failed, CountFor(requests.subspan(*failed)));
    for (const absl::StatusOr<TensorInfo>& info : PutMany(*connection_, layout::Purpose::kBound, some, options)) {
      if (!info.ok()) return info.status();
      ++*failed;
    }
  }
  return BoundSession().status();  // still the same: so it was meanwhile
}

bool InternalNames::IsHere(std::string_view name) {
  const absl::StatusOr<TensorView> view = client_.Get(name);
  return view.ok() && view->path() == "map";
}

absl::StatusOr<InternalNames::Text> InternalNames::ReadText(std::string_view name) {
  const absl::StatusOr<TensorView> view = client_.Get(name);
  if (absl::IsNotFound(view.status())) return Text{};
  if (!view.ok()) return view.status();
  return Text{.text = std::string(reinterpret_cast<const char*>(view->data()), view->nbytes()), .version = view->version().number};
}

absl::Status InternalNames::Keep(const Kept& kept) {
  const absl::StatusOr<Session*> session = BoundSession();
  if (!session.ok()) return session.status();
  return (*session)->Call(rpc::Method::kCommit, RequestOf(kept).SerializeAsString(), connection_->DefaultDeadline()).status();
}

absl::Status InternalNames::DropBound(const std::string& prefix) {
  const absl::StatusOr<Session*> session = BoundSession();
  if (!session.ok()) return session.status();
  v1::CommitRequest request;
  request.set_drop_prefix(prefix);
  return (*session)->Call(rpc::Method::kCommit, request.SerializeAsString(), connection_->DefaultDeadline()).status();
}

absl::Status InternalNames::Commit(std::string_view name, std::string_view text, uint64_t if_version, const Kept& kept) {
  PutOptions options;
  options.if_version = if_version;
  absl::StatusOr<Draft> draft = client_.CreateFor(layout::Purpose::kInternal, name, DType::kU8, Shape({static_cast<int64_t>(text.size())}), options);
  if (!draft.ok()) return draft.status();
  std::memcpy(draft->data(), text.data(), text.size());
  const absl::StatusOr<Session*> session = BoundSession();
  if (!session.ok()) return session.status();
  return (*std::move(draft)).PublishBy([&](Draft& filled) {
    v1::CommitRequest request = RequestOf(kept);
    request.mutable_draft()->set_record(filled.record_);
    request.mutable_draft()->set_record_seq(filled.record_seq_);
    const absl::StatusOr<std::string> done = (*session)->Call(rpc::Method::kCommit, request.SerializeAsString(), Deadline::After(filled.timeout_));
    if (!done.ok()) filled.session_->AbortDraft(filled.record_, filled.record_seq_);
    return done.status();
  }).status();
}

void InternalNames::DeleteVersion(std::string_view name, uint64_t version) {
  const Deadline deadline = connection_->DefaultDeadline();
  const absl::StatusOr<Session*> session = connection_->Live(deadline);
  if (session.ok()) (*session)->Lookup(layout::RingOp::kDelete, name, version, deadline).status().IgnoreError();
}

absl::Status InternalNames::DeletePrefix(std::string_view prefix) {
  v1::DeletePrefixRequest request;
  request.set_prefix(std::string(prefix));
  return client_.Call(static_cast<uint32_t>(rpc::Method::kDeletePrefix), request.SerializeAsString()).status();
}

}  // namespace penstock::client
