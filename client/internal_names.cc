#include "client/internal_names.h"

#include <cstring>
#include <utility>

#include "client/connection.h"
#include "proto/names.h"
#include "store.pb.h"

namespace penstock::client {

absl::StatusOr<TensorInfo> InternalNames::PutText(std::string_view name, std::string_view text, layout::Purpose purpose,
                                                  std::optional<uint64_t> if_version) {
  const PutRequest request{name, {.data = text.data(), .dtype = DType::kU8, .shape = Shape({static_cast<int64_t>(text.size())}), .strides = {}}};
  PutOptions options;
  options.if_version = if_version;
  return std::move(PutMany(*connection_, purpose, {&request, 1}, options)[0]);
}

std::vector<absl::StatusOr<TensorInfo>> InternalNames::PutBound(absl::Span<const PutRequest> requests) {
  return PutMany(*connection_, layout::Purpose::kBound, requests, {});
}

absl::StatusOr<InternalNames::Text> InternalNames::ReadText(std::string_view name) {
  const absl::StatusOr<TensorView> view = client_.Get(name);
  if (absl::IsNotFound(view.status())) return Text{};
  if (!view.ok()) return view.status();
  return Text{.text = std::string(reinterpret_cast<const char*>(view->data()), view->nbytes()), .version = view->version().number};
}

absl::Status InternalNames::Keep(const Bound& bound) {
  v1::CommitRequest request;
  request.set_keep_prefix(bound.prefix);
  request.set_keep_count(bound.count);
  return client_.Call(static_cast<uint32_t>(rpc::Method::kCommit), request.SerializeAsString()).status();
}

absl::Status InternalNames::Commit(std::string_view name, std::string_view text, uint64_t if_version, const Bound& bound) {
  PutOptions options;
  options.if_version = if_version;
  absl::StatusOr<Draft> draft = client_.CreateFor(layout::Purpose::kInternal, name, DType::kU8, Shape({static_cast<int64_t>(text.size())}), options);
  if (!draft.ok()) return draft.status();
  std::memcpy(draft->data(), text.data(), text.size());
  return (*std::move(draft)).PublishBy([&bound](Draft& filled) {
    v1::CommitRequest request;
    request.mutable_draft()->set_record(filled.record_);
    request.mutable_draft()->set_record_seq(filled.record_seq_);
    request.set_keep_prefix(bound.prefix);
    request.set_keep_count(bound.count);
    const absl::StatusOr<std::string> done = filled.session_->Call(rpc::Method::kCommit, request.SerializeAsString(), Deadline::After(filled.timeout_));
    if (!done.ok()) filled.session_->AbortDraft(filled.record_, filled.record_seq_);
    return done.status();
  }).status();
}

void InternalNames::DeleteVersion(std::string_view name, uint64_t version) {
  v1::DeleteRequest request;
  v1::TensorRef* item = request.add_items();
  item->set_name(std::string(name));
  item->set_version(version);
  client_.Call(static_cast<uint32_t>(rpc::Method::kDelete), request.SerializeAsString()).IgnoreError();
}

absl::Status InternalNames::DeletePrefix(std::string_view prefix) {
  v1::DeletePrefixRequest request;
  request.set_prefix(std::string(prefix));
  return client_.Call(static_cast<uint32_t>(rpc::Method::kDeletePrefix), request.SerializeAsString()).status();
}

}  // namespace penstock::client
