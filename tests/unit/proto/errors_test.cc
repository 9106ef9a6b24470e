#include "proto/errors.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string>

namespace penstock {
namespace {

absl::Status Make(absl::StatusCode code) { return absl::Status(code, "x"); }

TEST(Errors, NamesAreDistinctAndRowsAgreeWithTheirCode) {
  std::set<std::string_view> names;
  for (const ErrorTraits& row : AllErrors()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    if (row.kind == ErrorKind::kTransport) continue;  // by its mark, below
    EXPECT_EQ(KindOf(row.code), row.kind) << row.name;
  }
}

TEST(Errors, ExitCodesAreTheDocumentedOnes) {
  EXPECT_EQ(ExitCode(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCode(Make(absl::StatusCode::kInternal)), 1);
  EXPECT_EQ(ExitCode(Make(absl::StatusCode::kDataLoss)), 1);
  EXPECT_EQ(ExitCode(Make(absl::StatusCode::kInvalidArgument)), 2);
  EXPECT_EQ(ExitCode(Make(absl::StatusCode::kNotFound)), 3);
  EXPECT_EQ(ExitCode(Make(absl::StatusCode::kUnavailable)), 4);
  EXPECT_EQ(ExitCode(Make(absl::StatusCode::kResourceExhausted)), 5);
  EXPECT_EQ(ExitCode(Make(absl::StatusCode::kPermissionDenied)), 6);
  EXPECT_EQ(ExitCode(Make(absl::StatusCode::kDeadlineExceeded)), 7);
  EXPECT_EQ(ExitCode(Make(absl::StatusCode::kAborted)), 8);
  EXPECT_EQ(ExitCode(Make(absl::StatusCode::kFailedPrecondition)), 8);
  EXPECT_EQ(ExitCode(Make(absl::StatusCode::kAlreadyExists)), 8);
}

TEST(Errors, UnknownCodesAreOther) {
  EXPECT_EQ(KindOf(static_cast<absl::StatusCode>(99)), ErrorKind::kOther);
  EXPECT_EQ(TraitsOf(static_cast<ErrorKind>(99)).kind, ErrorKind::kOther);
  EXPECT_EQ(KindOf(absl::StatusCode::kUnimplemented), ErrorKind::kOther);
}

TEST(Errors, TransportErrorIsUnavailableWithItsOwnName) {
  const absl::Status status = TransportError("no lane");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ErrorName(status), "Transport");
  EXPECT_EQ(ErrorName(Make(absl::StatusCode::kUnavailable)), "Unavailable");
}

TEST(Errors, RetryIsDecidedByTheCode) {
  EXPECT_EQ(RetryAfter(absl::StatusCode::kUnavailable), Retry::kBackOff);
  EXPECT_EQ(RetryAfter(absl::StatusCode::kResourceExhausted), Retry::kBackOff);
  EXPECT_EQ(RetryAfter(absl::StatusCode::kAborted), Retry::kLookUpAgain);
  EXPECT_EQ(RetryAfter(absl::StatusCode::kDeadlineExceeded), Retry::kOutcomeUnknown);
  EXPECT_TRUE(IsRetriable(absl::StatusCode::kAborted));
  EXPECT_FALSE(IsRetriable(absl::StatusCode::kDeadlineExceeded));
  EXPECT_FALSE(IsRetriable(absl::StatusCode::kDataLoss));
  EXPECT_FALSE(IsRetriable(absl::StatusCode::kOk));
}

TEST(ErrnoStatus, NamesOperationAndCause) {
  const absl::Status status = ErrnoStatus(ENOENT, "open /x");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "open /x: No such file or directory (ENOENT)");
  EXPECT_EQ(ErrnoStatus(ENOSPC, "write").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrnoStatus(EACCES, "open").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ErrnoStatus(ECONNREFUSED, "connect").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ErrnoStatus(99999, "odd").code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace penstock
