#include "client/put_spec.h"

#include <string.h>

#include <algorithm>

#include "client/info.h"
#include "proto/layout/metadata_codec.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "proto/uuid_text.h"
#include "transport/copy/copy.h"

namespace penstock::client {

absl::StatusOr<PutTerms> PutTerms::Check(const PutOptions& options, layout::Purpose purpose) {
  PutTerms terms(&options);
  terms.fields_.purpose = purpose;
  layout::CreateRequest& fields = terms.fields_;
  fields.if_version = layout::kAnyVersion;
  if (options.if_version) {
    if (*options.if_version == layout::kAnyVersion) {
      return absl::InvalidArgumentError("put: if_version is above the largest version");
    }
    fields.if_version = *options.if_version;
  }
  if (options.if_absent) {
    if (options.if_version.value_or(0) != 0) {
      return absl::InvalidArgumentError(StrCat("put: if_absent and if_version=",
                                               *options.if_version,
                                               " contradict each other; give one of them"));
    }
    fields.if_version = 0;
  }
  if (options.ttl) {
    const int64_t nanos = absl::ToInt64Nanoseconds(*options.ttl);
    if (nanos <= 0 || *options.ttl == absl::InfiniteDuration()) {
      return absl::InvalidArgumentError(StrCat("put: ttl ", absl::FormatDuration(*options.ttl),
                                               " must be above 0 and finite"));
    }
    fields.ttl_ns = static_cast<uint64_t>(nanos);
  }
  if (options.replicas == 0 || options.replicas > UINT16_MAX) {
    return absl::InvalidArgumentError(
        StrCat("put: replicas ", options.replicas, " must be from 1 to ", UINT16_MAX));
  }
  fields.version = options.version;
  fields.replicas = static_cast<uint16_t>(options.replicas);
  if (options.soft_pin && options.keep) return absl::InvalidArgumentError("put: soft_pin is for the cache class; it needs keep = false");
  fields.flags = (options.keep ? layout::kRecordKeep : 0) | (options.soft_pin ? layout::kRecordSoftPin : 0);
  if (!options.metadata.empty()) {
    if (absl::Status s = ValidateMetadata(options.metadata); !s.ok()) return s;
    terms.metadata_ = layout::EncodeMetadata(options.metadata);
    fields.metadata_bytes = static_cast<uint16_t>(terms.metadata_.size());
  }
  return terms;
}

absl::Status PutTerms::Explain(absl::Status status) const {
  if (!absl::IsAlreadyExists(status) || options_->if_absent) return status;
  return absl::AbortedError(status.message());
}

absl::StatusOr<PutSpec> PutSpec::Check(std::string_view name, DType dtype, const Shape& shape,
                                       const PutTerms& terms) {
  const bool user = terms.fields().purpose == layout::Purpose::kUser;
  if (absl::Status s = user ? ValidateUserName(name) : ValidateInternalName(name); !s.ok()) return s;
  const absl::StatusOr<uint64_t> nbytes = ByteSize(dtype, shape);
  if (!nbytes.ok()) return nbytes.status();
  PutSpec spec;
  spec.name_ = name;
  spec.dtype_ = dtype;
  spec.shape_ = &shape;
  spec.terms_ = &terms;
  spec.nbytes_ = *nbytes;
  return spec;
}

uint32_t PutSpec::request_bytes() const {
  return static_cast<uint32_t>(sizeof(layout::CreateRequest) +
                               8 * static_cast<size_t>(shape_->rank()) + name_.size() +
                               terms_->metadata().size());
}

void PutSpec::Encode(char* body, uint32_t data_offset) const {
  layout::CreateRequest request = terms_->fields();
  request.nbytes = nbytes_;
  request.data_offset = data_offset;
  request.name_bytes = static_cast<uint16_t>(name_.size());
  request.dtype = static_cast<uint8_t>(dtype_);
  request.rank = static_cast<uint8_t>(shape_->rank());
  memcpy(body, &request, sizeof(request));
  body += sizeof(request);
  const size_t shape_bytes = 8 * static_cast<size_t>(shape_->rank());
  memcpy(body, shape_->dims().data(), shape_bytes);
  memcpy(body + shape_bytes, name_.data(), name_.size());
  memcpy(body + shape_bytes + name_.size(), terms_->metadata().data(), terms_->metadata().size());
}

std::string HomeOf(const layout::CreateResponse& made, const std::string& node_uuid) {
  const bool elsewhere = std::any_of(std::begin(made.home), std::end(made.home), [](uint8_t byte) { return byte != 0; });
  return elsewhere ? UuidText(made.home) : node_uuid;
}

TensorInfo PutSpec::Info(const layout::CreateResponse& made, const std::string& node_uuid,
                         bool kernel_immutable) const {
  TensorInfo info;
  info.name = std::string(name_);
  info.version = {made.version_term, made.version_number};
  info.dtype = dtype_;
  info.shape = *shape_;
  info.nbytes = nbytes_;
  info.created = absl::FromUnixNanos(static_cast<int64_t>(made.created_ns));
  const PutOptions& options = terms_->options();
  info.keep = options.keep;
  info.soft_pin = options.soft_pin;
  if (options.ttl) info.expires = info.created + *options.ttl;
  info.replicas = options.replicas;
  info.nodes.push_back(HomeOf(made, node_uuid));
  info.metadata = options.metadata;
  info.immutable = ImmutableBy(kernel_immutable);
  return info;
}

absl::Status CheckSource(const ConstTensorRef& tensor, uint64_t nbytes) {
  if (tensor.data == nullptr && nbytes > 0) {
    return absl::InvalidArgumentError(
        StrCat("put: data is null, but the tensor has ", nbytes, " bytes"));
  }
  if (tensor.strides.empty()) return absl::OkStatus();
  if (tensor.strides.size() != static_cast<size_t>(tensor.shape.rank())) {
    return absl::InvalidArgumentError(StrCat("put: ", tensor.strides.size(),
                                             " strides for a shape of rank ",
                                             tensor.shape.rank(), "; give one a dimension"));
  }
  if (ItemSize(tensor.dtype) == 0) {
    return absl::InvalidArgumentError(StrCat("put: strides are given, but elements of dtype ",
                                             DTypeName(tensor.dtype), " have no address"));
  }
  return absl::OkStatus();
}

absl::Status Gather(const ConstTensorRef& tensor, uint64_t nbytes, void* out) {
  if (nbytes == 0) return absl::OkStatus();
  if (tensor.strides.empty()) {
    CopyBytes(out, tensor.data, nbytes);
    return absl::OkStatus();
  }
  const Strides dense = ContiguousStrides(tensor.dtype, tensor.shape);
  if (std::equal(dense.begin(), dense.end(), tensor.strides.begin(), tensor.strides.end())) {
    CopyBytes(out, tensor.data, nbytes);
    return absl::OkStatus();
  }
  return CopyStrided({.dst = out,
                      .src = tensor.data,
                      .shape = tensor.shape.dims(),
                      .dst_strides = dense.span(),
                      .src_strides = tensor.strides,
                      .itemsize = ItemSize(tensor.dtype)});
}

}  // namespace penstock::client
