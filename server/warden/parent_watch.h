// ParentWatch: tells that the process that started us has ended (--exit_with_parent).
//
// A pidfd and not PR_SET_PDEATHSIG: that one fires when the *thread* that forked us ends, and a
// Python program may well start a node from a thread that does not live long.
//
// Threading:  one thread at a time
// Ownership:  owns the pidfd
// Errors:     UNAVAILABLE: the parent is gone already
// Limits:     a parent in another pid namespace cannot be watched: FAILED_PRECONDITION
#ifndef PENSTOCK_SERVER_WARDEN_PARENT_WATCH_H_
#define PENSTOCK_SERVER_WARDEN_PARENT_WATCH_H_

#include "absl/status/status.h"
#include "transport/unique_fd.h"

namespace penstock::warden {

class ParentWatch {
 public:
  // `ready_fd` (or -1) is a pipe to the parent: that nobody reads it any more shows that the parent
  // ended before we looked and that we have been given to somebody else.
  absl::Status Open(int ready_fd);
  void Close() { pidfd_.reset(); }

  int fd() const { return pidfd_.get(); }  // readable when the parent has ended; -1 if not watched

 private:
  UniqueFd pidfd_;
};

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_PARENT_WATCH_H_
