// A status to its message, as the results of a batch have them.
//
// Threading:  any thread
// Ownership:  copies
// Errors:     none
// Limits:     payloads of the status are left out
#pragma once

#include <string>

#include "absl/status/status.h"
#include "store.pb.h"

namespace penstock::server {

inline void Encode(const absl::Status& status, v1::Status* out) {
  out->set_code(static_cast<int>(status.code()));
  out->set_message(std::string(status.message()));
}

}  // namespace penstock::server
