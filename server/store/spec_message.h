// CreateSpec from and to its message.
//
// Threading:  any thread
// Ownership:  the spec views the message and `metadata`, which must outlive it
// Errors:     INVALID_ARGUMENT that names the field; what Store::Reserve checks is left to it
// Limits:     none
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/store/store.h"
#include "store.pb.h"

namespace penstock::server {

// `metadata`: room for what the spec's metadata is a view of.
absl::StatusOr<CreateSpec> DecodeSpec(const v1::CreateSpec& message, std::string* metadata);

}  // namespace penstock::server
