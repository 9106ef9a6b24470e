#include "client/info.h"

#include <utility>

#include "proto/layout/metadata_codec.h"

namespace penstock {

std::string_view EventKindName(TensorEvent::Kind kind) {
  switch (kind) {
    case TensorEvent::Kind::kPut:
      return "put";
    case TensorEvent::Kind::kDelete:
      return "delete";
    case TensorEvent::Kind::kExpire:
      return "expire";
    case TensorEvent::Kind::kEvict:
      return "evict";
    case TensorEvent::Kind::kNode:
      return "node";
    case TensorEvent::Kind::kSession:
      return "session";
    case TensorEvent::Kind::kWarning:
      return "warning";
    case TensorEvent::Kind::kResync:
      return "resync";
  }
  return "unknown";
}

}  // namespace penstock

namespace penstock::client {
namespace {

absl::Time TimeOf(uint64_t unix_nanos) {
  return absl::FromUnixNanos(static_cast<int64_t>(unix_nanos));
}

TensorEvent::Kind KindOf(v1::Event::Kind kind) {
  switch (kind) {
    case v1::Event::PUT:
      return TensorEvent::Kind::kPut;
    case v1::Event::DELETE:
      return TensorEvent::Kind::kDelete;
    case v1::Event::EXPIRE:
      return TensorEvent::Kind::kExpire;
    case v1::Event::EVICT:
      return TensorEvent::Kind::kEvict;
    case v1::Event::NODE:
      return TensorEvent::Kind::kNode;
    case v1::Event::SESSION:
      return TensorEvent::Kind::kSession;
    case v1::Event::RESYNC:
      return TensorEvent::Kind::kResync;
    default:
      return TensorEvent::Kind::kWarning;
  }
}

}  // namespace

std::string ImmutableBy(bool kernel) { return kernel ? "kernel" : "writer"; }

Metadata MetadataOf(const layout::Record* record) {
  if (record->metadata_bytes == 0) return {};
  absl::StatusOr<Metadata> metadata =
      layout::DecodeMetadata({layout::RecordMetadata(record), record->metadata_bytes});
  return metadata.ok() ? *std::move(metadata) : Metadata{};
}

TensorInfo InfoOf(const layout::Record* record, const std::string& node_uuid) {
  TensorInfo info;
  info.name.assign(layout::NameOf(record));
  info.version = {record->version_term, record->version_number};
  info.dtype = static_cast<DType>(record->dtype);
  info.shape = Shape(absl::MakeConstSpan(layout::RecordShape(record), record->rank));
  info.nbytes = record->nbytes;
  info.created = TimeOf(record->created_ns);
  info.keep = (record->flags & layout::kRecordKeep) != 0;
  info.soft_pin = (record->flags & layout::kRecordSoftPin) != 0;
  info.crc32c = layout::ChecksumOf(record);
  if (const uint64_t expires = record->expires_ns; expires != 0 && expires < layout::kLeaseBase) {
    info.expires = TimeOf(expires);
  }
  info.replicas = record->replicas;
  info.nodes = {node_uuid};
  info.metadata = MetadataOf(record);
  info.immutable = ImmutableBy((record->flags & layout::kRecordKernelImmutable) != 0);
  return info;
}

TensorInfo InfoOf(const v1::TensorInfo& message) {
  TensorInfo info;
  info.name = message.name();
  info.version = {message.version().term(), message.version().number()};
  info.dtype = static_cast<DType>(message.dtype());
  absl::StatusOr<Shape> shape = Shape::Create(
      absl::MakeConstSpan(message.shape().data(), static_cast<size_t>(message.shape_size())));
  if (shape.ok()) info.shape = *shape;
  info.nbytes = message.nbytes();
  info.created = TimeOf(message.created_ns());
  info.keep = message.keep();
  info.soft_pin = message.soft_pin();
  info.spilled = message.spilled();
  if (message.has_crc32c()) info.crc32c = message.crc32c();
  if (message.expires_ns() != 0) info.expires = TimeOf(message.expires_ns());
  info.replicas = message.replicas();
  info.nodes.assign(message.nodes().begin(), message.nodes().end());
  info.metadata.insert(message.metadata().begin(), message.metadata().end());
  info.immutable = message.immutable();
  return info;
}

TensorEvent EventOf(const v1::Event& message) {
  return {.kind = KindOf(message.kind()),
          .sequence = message.sequence(),
          .time = TimeOf(message.time_ns()),
          .info = InfoOf(message.info()),
          .text = message.text()};
}

}  // namespace penstock::client
