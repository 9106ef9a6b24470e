// SysError: one failed system call as a Status. The border errno -> Status of this folder.
//
// Threading:  any thread
// Ownership:  copies its text
// Errors:     ENOMEM, ENOSPC, EMFILE, ENFILE: RESOURCE_EXHAUSTED; EPIPE, ECONNRESET, ECONNREFUSED:
//             UNAVAILABLE (the peer is gone); the rest as absl::ErrnoToStatus
// Limits:     allocates; never call it between fork and _exit
#ifndef PENSTOCK_TRANSPORT_SYS_ERROR_H_
#define PENSTOCK_TRANSPORT_SYS_ERROR_H_

#include <string>

#include "absl/status/status.h"

namespace penstock {

// `operation` names the call and its numbers: "ftruncate(memfd seg-1, 4096)".
absl::Status SysError(int error_number, const std::string& operation);

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_SYS_ERROR_H_
