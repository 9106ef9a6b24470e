#include "server/store/spec_message.h"

#include <algorithm>
#include <map>

#include "proto/layout/metadata_codec.h"
#include "proto/names.h"
#include "proto/strcat.h"

namespace penstock::server {

absl::StatusOr<CreateSpec> DecodeSpec(const v1::CreateSpec& message, std::string* metadata) {
  const absl::StatusOr<Shape> shape = Shape::Create(absl::MakeConstSpan(message.shape().data(), static_cast<size_t>(message.shape_size())));
  if (!shape.ok()) return shape.status();
  if (message.dtype() > kMaxDType) return absl::InvalidArgumentError(StrCat("dtype: ", message.dtype(), " is not a dtype of this store"));
  if (message.replicas() > 65535) return absl::InvalidArgumentError(StrCat("replicas: ", message.replicas(), " is out of range"));
  const std::map<std::string, std::string> sorted(message.metadata().begin(), message.metadata().end());
  if (absl::Status s = ValidateMetadata(sorted); !s.ok()) return s;
  *metadata = layout::EncodeMetadata(sorted);
  const DType dtype = static_cast<DType>(message.dtype());
  return CreateSpec{.name = message.name(), .dtype = dtype, .shape = *shape, .nbytes = ByteSize(dtype, *shape).value_or(0),
                    .version = message.version(), .if_version = message.has_if_version() ? message.if_version() : layout::kAnyVersion,
                    .ttl_ns = message.ttl_ns(), .keep = message.keep(), .soft_pin = message.soft_pin(),
                    .replicas = static_cast<uint16_t>(std::max(message.replicas(), 1u)), .metadata = *metadata,
                    .purpose = message.internal() ? layout::Purpose::kInternal : layout::Purpose::kUser};
}

}  // namespace penstock::server
