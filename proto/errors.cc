#include "proto/errors.h"

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

using Code = absl::StatusCode;

constexpr ErrorTraits kErrors[] = {
    {ErrorKind::kOk, "Ok", Code::kOk, 0},
    {ErrorKind::kOther, "Other", Code::kInternal, 1},
    {ErrorKind::kInvalidArgument, "InvalidArgument", Code::kInvalidArgument, 2},
    {ErrorKind::kNotFound, "NotFound", Code::kNotFound, 3},
    {ErrorKind::kUnavailable, "Unavailable", Code::kUnavailable, 4},
    {ErrorKind::kStoreFull, "StoreFull", Code::kResourceExhausted, 5},
    {ErrorKind::kPermissionDenied, "PermissionDenied", Code::kPermissionDenied, 6},
    {ErrorKind::kDeadline, "Deadline", Code::kDeadlineExceeded, 7},
    {ErrorKind::kConflict, "Conflict", Code::kFailedPrecondition, 8},
    {ErrorKind::kAlreadyExists, "AlreadyExists", Code::kAlreadyExists, 8},
    {ErrorKind::kDataLoss, "DataLoss", Code::kDataLoss, 1},
    {ErrorKind::kTransport, "Transport", Code::kUnavailable, 4},
};

constexpr bool TableIsInOrder() {
  for (size_t i = 0; i < std::size(kErrors); ++i) {
    if (static_cast<size_t>(kErrors[i].kind) != i) return false;
  }
  return true;
}
static_assert(TableIsInOrder());

constexpr absl::string_view kTransportMark = "penstock/transport";

Code CodeOfErrno(int err) {
  switch (err) {
    case 0:
      return Code::kOk;
    case ENOENT:
    case ESRCH:
    case ENXIO:
    case ENODEV:
      return Code::kNotFound;
    case EEXIST:
    case EADDRINUSE:
      return Code::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return Code::kPermissionDenied;
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case EFBIG:
      return Code::kResourceExhausted;
    case EAGAIN:
    case EINTR:
    case EBUSY:
    case EPIPE:
    case ECONNREFUSED:
    case ECONNRESET:
    case ECONNABORTED:
    case ENOTCONN:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
      return Code::kUnavailable;
    case ETIMEDOUT:
      return Code::kDeadlineExceeded;
    case EIO:
      return Code::kDataLoss;
    case ENOSYS:
    case EOPNOTSUPP:
      return Code::kUnimplemented;
    case EINVAL:
    case EBADF:
    case EFAULT:
    case ENAMETOOLONG:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENOTSOCK:
    case EMSGSIZE:
      return Code::kInvalidArgument;
    default:
      return Code::kInternal;
  }
}

}  // namespace

absl::Span<const ErrorTraits> AllErrors() { return kErrors; }

const ErrorTraits& TraitsOf(ErrorKind kind) {
  const auto index = static_cast<size_t>(kind);
  return kErrors[index < std::size(kErrors) ? index : static_cast<size_t>(ErrorKind::kOther)];
}

ErrorKind KindOf(absl::StatusCode code) {
  switch (code) {
    case Code::kOk:
      return ErrorKind::kOk;
    case Code::kInvalidArgument:
    case Code::kOutOfRange:
      return ErrorKind::kInvalidArgument;
    case Code::kNotFound:
      return ErrorKind::kNotFound;
    case Code::kAlreadyExists:
      return ErrorKind::kAlreadyExists;
    case Code::kResourceExhausted:
      return ErrorKind::kStoreFull;
    case Code::kUnavailable:
      return ErrorKind::kUnavailable;
    case Code::kDeadlineExceeded:
      return ErrorKind::kDeadline;
    case Code::kPermissionDenied:
    case Code::kUnauthenticated:
      return ErrorKind::kPermissionDenied;
    case Code::kDataLoss:
      return ErrorKind::kDataLoss;
    case Code::kAborted:
    case Code::kFailedPrecondition:
      return ErrorKind::kConflict;
    default:
      return ErrorKind::kOther;
  }
}

ErrorKind KindOf(const absl::Status& status) {
  if (status.code() == Code::kUnavailable && status.GetPayload(kTransportMark).has_value()) {
    return ErrorKind::kTransport;
  }
  return KindOf(status.code());
}

std::string_view ErrorName(const absl::Status& status) { return TraitsOf(KindOf(status)).name; }

int ExitCode(const absl::Status& status) { return TraitsOf(KindOf(status)).exit_code; }

Retry RetryAfter(absl::StatusCode code) {
  switch (code) {
    case Code::kUnavailable:
    case Code::kResourceExhausted:
      return Retry::kBackOff;
    case Code::kAborted:
      return Retry::kLookUpAgain;
    case Code::kDeadlineExceeded:
      return Retry::kOutcomeUnknown;
    default:
      return Retry::kNever;
  }
}

bool IsRetriable(absl::StatusCode code) {
  const Retry retry = RetryAfter(code);
  return retry == Retry::kBackOff || retry == Retry::kLookUpAgain;
}

absl::Status TransportError(std::string_view message) {
  absl::Status status = absl::UnavailableError(absl::string_view(message.data(), message.size()));
  status.SetPayload(kTransportMark, absl::Cord("1"));
  return status;
}

bool IsTransportError(const absl::Status& status) { return status.GetPayload(kTransportMark).has_value(); }

absl::Status ErrnoStatus(int err, std::string_view operation) {
  const char* name = strerrorname_np(err);
  const char* text = strerrordesc_np(err);
  return absl::Status(CodeOfErrno(err),
                      StrCat(operation, ": ", text == nullptr ? "unknown error" : text, " (",
                             name == nullptr ? StrCat(err) : name, ")"));
}

}  // namespace penstock
