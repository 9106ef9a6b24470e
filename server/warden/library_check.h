// LibraryCheck: whether the node library that is on disk now could be the next node's.
//
// A child of the warden loads it and tells. So a node is never ended for a successor that could not
// begin, whatever the library does when it is loaded.
//
// Threading:  one thread at a time; Start from a process with one thread
// Ownership:  owns the child: destroying it kills and reaps it
// Errors:     Wait: FAILED_PRECONDITION that says what is wrong with the library
// Limits:     20 s of the child's life
#ifndef PENSTOCK_SERVER_WARDEN_LIBRARY_CHECK_H_
#define PENSTOCK_SERVER_WARDEN_LIBRARY_CHECK_H_

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "transport/unique_fd.h"

namespace penstock::warden {

class LibraryCheck {
 public:
  static absl::StatusOr<LibraryCheck> Start(const std::string& library);

  LibraryCheck(LibraryCheck&& other) noexcept;
  LibraryCheck& operator=(LibraryCheck&& other) = delete;
  ~LibraryCheck();

  // Readable when the child has ended and Wait will not block.
  int pidfd() const { return pidfd_.get(); }
  // The library's version. Once.
  absl::StatusOr<std::string> Wait();

 private:
  LibraryCheck() = default;

  std::string library_;
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd told_;  // what the child writes
};

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_LIBRARY_CHECK_H_
