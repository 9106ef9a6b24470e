#include "transport/sys_error.h"

#include <errno.h>

namespace penstock {

absl::Status SysError(int error_number, const std::string& operation) {
  const absl::Status status = absl::ErrnoToStatus(error_number, operation);
  switch (error_number) {
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(status.message());
    case EPIPE:
    case ECONNRESET:
    case ECONNREFUSED:
      return absl::UnavailableError(status.message());
    default:
      return status;
  }
}

}  // namespace penstock
