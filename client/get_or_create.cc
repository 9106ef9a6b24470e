// Client: GetOrCreate, one maker at a time.
//
// The lock is an open-file-description lock on one byte of the catalog header's file, chosen by the
// hash of the name. All clients of a store on this host have that file, whatever mounts they share,
// and the kernel drops the lock with its holder, SIGKILL included. Each call opens the file anew:
// descriptors that came by the fd socket are one open file, whose locks would not exclude.
#include <fcntl.h>

#include <utility>

#include "client/connection.h"
#include "proto/layout/name_hash.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "transport/sys_error.h"

namespace penstock {

using client::Deadline;
using client::Session;

namespace {

class NameLock {
 public:
  static absl::StatusOr<NameLock> Open(Session* session, std::string_view name) {
    absl::StatusOr<UniqueFd> fd = session->OpenLockFile();
    if (!fd.ok()) return fd.status();
    const uint64_t* key = session->catalog().header().hash_key;
    const uint64_t hash = layout::HashName(name.data(), name.size(), key);
    return NameLock(*std::move(fd), static_cast<off_t>(hash >> 2));
  }
  NameLock(NameLock&&) = default;
  // Unlocks expressly: a child that `make` forked may still have the descriptor.
  ~NameLock() {
    if (fd_) (void)Set(F_UNLCK);
  }

  // False while somebody else holds it.
  absl::StatusOr<bool> TryLock() {
    if (Set(F_WRLCK) == 0) return true;
    if (errno == EAGAIN || errno == EACCES || errno == EINTR) return false;
    return SysError(errno, "F_OFD_SETLK of a name being made");
  }

 private:
  NameLock(UniqueFd fd, off_t position) : fd_(std::move(fd)), position_(position) {}
  int Set(short type) {
    struct flock lock{};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = position_;
    lock.l_len = 1;
    return fcntl(fd_.get(), F_OFD_SETLK, &lock);
  }
  UniqueFd fd_;
  off_t position_;
};

// How long a maker that died can keep others waiting.
constexpr absl::Duration kLookAgain = absl::Milliseconds(100);

}  // namespace

absl::StatusOr<TensorView> Client::GetOrCreate(std::string_view name,
                                               const std::function<absl::Status(Client&)>& make,
                                               absl::Duration timeout) {
  const Deadline deadline = Deadline::After(timeout);
  absl::StatusOr<TensorView> view = Get(name);
  if (!absl::IsNotFound(view.status())) return view;
  if (absl::Status s = ValidateUserName(name); !s.ok()) return s;
  const absl::StatusOr<Session*> session = connection_->Live(deadline);
  if (!session.ok()) return session.status();
  absl::StatusOr<NameLock> lock = NameLock::Open(*session, name);
  if (!lock.ok()) return lock.status();
  while (true) {
    const absl::StatusOr<bool> locked = lock->TryLock();
    if (!locked.ok()) return locked.status();
    if (*locked) break;
    const absl::StatusOr<TensorInfo> made = Wait(name, 0, deadline.Slice(kLookAgain));
    if (made.ok()) {
      view = Get(name);
      if (!absl::IsNotFound(view.status())) return view;
    } else if (!absl::IsDeadlineExceeded(made.status())) {
      return made.status();
    }
    if (deadline.Passed()) {
      return absl::DeadlineExceededError(StrCat("get_or_create \"", name,
                                                "\": another caller has been making it for ",
                                                absl::FormatDuration(timeout)));
    }
  }
  view = Get(name);  // the one that held the lock before may have made it
  if (!absl::IsNotFound(view.status())) return view;
  if (absl::Status s = make(*this); !s.ok()) return s;
  return Get(name);
}

}  // namespace penstock
