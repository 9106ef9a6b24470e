#include "server/store/record_info.h"

#include <map>
#include <utility>

#include "proto/layout/metadata_codec.h"
#include "proto/names.h"
#include "proto/strcat.h"

namespace penstock::server {

v1::RecordInfo RecordInfoOf(const layout::Record* record) {
  v1::RecordInfo info;
  info.set_dtype(record->dtype);
  for (int i = 0; i < record->rank; ++i) info.add_shape(layout::RecordShape(record)[i]);
  info.set_created_ns(record->created_ns);
  info.set_expires_ns(record->cluster_state != 0 ? layout::DirectoryPartOf(record)->expires_ns : 0);
  info.set_keep(record->flags & layout::kRecordKeep);
  info.set_replicas(record->replicas);
  info.set_soft_pin(record->flags & layout::kRecordSoftPin);
  if (const auto crc32c = layout::ChecksumOf(record)) info.set_crc32c(*crc32c);
  if (record->metadata_bytes > 0) {
    const auto metadata = layout::DecodeMetadata({layout::RecordMetadata(record), record->metadata_bytes});
    for (const auto& [key, value] : *metadata) (*info.mutable_metadata())[key] = value;
  }
  return info;
}

absl::StatusOr<v1::RecordInfo> ParseRecordInfo(std::string_view bytes) {
  v1::RecordInfo info;
  if (!info.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return absl::InvalidArgumentError("info: not a RecordInfo");
  return info;
}

absl::StatusOr<CreateSpec> SpecOfRecord(std::string_view name, const v1::RecordInfo& info, std::string* metadata) {
  const absl::StatusOr<Shape> shape = Shape::Create(absl::MakeConstSpan(info.shape().data(), static_cast<size_t>(info.shape_size())));
  if (!shape.ok()) return shape.status();
  if (info.dtype() > kMaxDType || !IsValid(static_cast<DType>(info.dtype()))) {
    return absl::InvalidArgumentError(StrCat("dtype: ", info.dtype(), " is not a dtype of this store"));
  }
  if (info.replicas() < 1 || info.replicas() > 255) {
    return absl::InvalidArgumentError(StrCat("replicas: ", info.replicas(), " asked for; 1 to 255 are allowed"));
  }
  const DType dtype = static_cast<DType>(info.dtype());
  const absl::StatusOr<uint64_t> nbytes = ByteSize(dtype, *shape);
  if (!nbytes.ok()) return nbytes.status();
  const std::map<std::string, std::string> sorted(info.metadata().begin(), info.metadata().end());
  if (absl::Status s = ValidateMetadata(sorted); !s.ok()) return s;
  *metadata = layout::EncodeMetadata(sorted);
  const layout::Purpose purpose = name.starts_with(kReservedPrefix) ? layout::Purpose::kInternal : layout::Purpose::kUser;
  return CreateSpec{.name = name, .dtype = dtype, .shape = *shape, .nbytes = *nbytes, .keep = info.keep(), .soft_pin = info.soft_pin(),
                    .replicas = static_cast<uint16_t>(info.replicas()), .metadata = *metadata, .in_arena = true,
                    .judged_later = true, .purpose = purpose, .crc32c = info.has_crc32c() ? std::optional(info.crc32c()) : std::nullopt};
}

absl::StatusOr<v1::TensorInfo> TensorInfoOf(std::string_view name, directory::Version version, const directory::PutInfo& put) {
  const absl::StatusOr<v1::RecordInfo> record = ParseRecordInfo(put.info);
  if (!record.ok()) return record.status();
  v1::TensorInfo info;
  info.set_name(std::string(name));
  info.mutable_version()->set_term(static_cast<uint32_t>(version.term));
  info.mutable_version()->set_number(version.number);
  info.set_dtype(record->dtype());
  *info.mutable_shape() = record->shape();
  info.set_nbytes(put.nbytes);
  info.set_created_ns(record->created_ns());
  info.set_keep(record->keep());
  info.set_expires_ns(record->expires_ns());
  info.set_replicas(record->replicas());
  info.set_soft_pin(record->soft_pin());
  if (record->has_crc32c()) info.set_crc32c(record->crc32c());
  *info.mutable_metadata() = record->metadata();
  info.set_immutable("kernel");
  return info;
}

}  // namespace penstock::server
