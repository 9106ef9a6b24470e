// The one error table: status codes, the names that users know them by, the command line's exit
// codes, and what a caller may do next.
//
// Every border of the product (Python exceptions, C ABI, command line, gRPC, errno) reads this
// table, so that one cause has one name everywhere.
//
// Threading:  any thread; constant tables.
// Ownership:  names are literals.
// Errors:     none; unknown codes are kOther.
// Limits:     a transport error keeps its kind within the process: gRPC carries only the code,
// UNAVAILABLE.
#ifndef PENSTOCK_PROTO_ERRORS_H_
#define PENSTOCK_PROTO_ERRORS_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace penstock {

// Numbers are part of the C ABI and never change.
enum class ErrorKind : uint8_t {
  kOk = 0,
  kOther = 1,
  kInvalidArgument = 2,
  kNotFound = 3,
  kUnavailable = 4,
  kStoreFull = 5,
  kPermissionDenied = 6,
  kDeadline = 7,
  kConflict = 8,
  kAlreadyExists = 9,
  kDataLoss = 10,
  kTransport = 11,
};

// What to do after an error; decided by the code alone.
enum class Retry : uint8_t {
  kNever,           // report it
  kBackOff,         // the same request again, later
  kLookUpAgain,     // what was known is out of date: look up, then again
  kOutcomeUnknown,  // it may have happened: again only if that does no harm
};

struct ErrorTraits {
  ErrorKind kind;
  std::string_view name;  // "NotFound"; Python adds "Error"
  absl::StatusCode code;  // that a status of this kind is made with
  int exit_code;          // of the command line
};

absl::Span<const ErrorTraits> AllErrors();
const ErrorTraits& TraitsOf(ErrorKind kind);

// The kind of a status: by its code, but transport errors by their mark.
ErrorKind KindOf(const absl::Status& status);
ErrorKind KindOf(absl::StatusCode code);

// "NotFound"; "Ok" for OK.
std::string_view ErrorName(const absl::Status& status);

// 0 done, 1 other, 2 usage, 3 not found, 4 unavailable, 5 full, 6 refused, 7 deadline, 8 conflict.
int ExitCode(const absl::Status& status);

Retry RetryAfter(absl::StatusCode code);

// True if the same request may be sent again without knowing more: kBackOff and kLookUpAgain.
bool IsRetriable(absl::StatusCode code);

// UNAVAILABLE with the mark of a transport error (TransportError in Python).
absl::Status TransportError(std::string_view message);
bool IsTransportError(const absl::Status& status);

// The status of a failed system call: "open /x: No such file or directory (ENOENT)". `err` is an
// errno value.
absl::Status ErrnoStatus(int err, std::string_view operation);

}  // namespace penstock

#endif  // PENSTOCK_PROTO_ERRORS_H_
