// PutSpec: a put or create that has been checked, and its form in a ring request.
//
// Threading:  one thread at a time
// Ownership:  borrows name, shape and options of the caller during the call
// Errors:     INVALID_ARGUMENT that names the field, its value and what is allowed
// Limits:     no allocation without metadata
#ifndef PENSTOCK_CLIENT_PUT_SPEC_H_
#define PENSTOCK_CLIENT_PUT_SPEC_H_

#include <penstock/client.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/session/session.h"
#include "proto/layout/ring_layout.h"

namespace penstock::client {

// What all puts of one call have in common.
class PutTerms {
 public:
  static absl::StatusOr<PutTerms> Check(const PutOptions& options,
                                        layout::Purpose purpose = layout::Purpose::kUser);

  const PutOptions& options() const { return *options_; }
  const layout::CreateRequest& fields() const { return fields_; }
  const std::string& metadata() const { return metadata_; }
  // The condition's failure in the words of who asked: if_version=0 is a conflict, not "exists".
  absl::Status Explain(absl::Status status) const;

 private:
  explicit PutTerms(const PutOptions* options) : options_(options) {}
  const PutOptions* options_;
  layout::CreateRequest fields_{};  // version, conditions, ttl, flags, replicas, metadata_bytes
  std::string metadata_;            // encoded
};

class PutSpec {
 public:
  static absl::StatusOr<PutSpec> Check(std::string_view name, DType dtype, const Shape& shape,
                                       const PutTerms& terms);

  uint64_t nbytes() const { return nbytes_; }
  uint32_t request_bytes() const;
  void Encode(char* body, uint32_t data_offset) const;
  // What the tensor looks like once the node has answered.
  TensorInfo Info(const layout::CreateResponse& made, const std::string& node_uuid,
                  bool kernel_immutable) const;

 private:
  PutSpec() = default;
  std::string_view name_;
  DType dtype_ = DType::kInvalid;
  const Shape* shape_ = nullptr;
  const PutTerms* terms_ = nullptr;
  uint64_t nbytes_ = 0;
};

// Uuid of the node that has what was made; `node_uuid`: that of the session's node.
std::string HomeOf(const layout::CreateResponse& made, const std::string& node_uuid);

// Checks the memory that a caller gives; nbytes is the tensor's size in C order.
absl::Status CheckSource(const ConstTensorRef& tensor, uint64_t nbytes);
// Copies it to `out` in C order, in one pass.
absl::Status Gather(const ConstTensorRef& tensor, uint64_t nbytes, void* out);

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_PUT_SPEC_H_
