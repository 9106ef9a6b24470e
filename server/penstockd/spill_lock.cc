#include "server/penstockd/spill_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>

#include "proto/errors.h"
#include "proto/strcat.h"

namespace penstock::server {

absl::StatusOr<UniqueFd> LockSpillDir(const std::string& directory) {
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoStatus(errno, StrCat("flag --spill_dir: mkdir ", directory));
  const std::string path = StrCat(directory, "/lock");
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return ErrnoStatus(errno, StrCat("flag --spill_dir: open ", path));
  if (flock(file.get(), LOCK_EX | LOCK_NB) == 0) return file;
  if (errno != EWOULDBLOCK) return ErrnoStatus(errno, StrCat("flag --spill_dir: lock ", path));
  return absl::AlreadyExistsError(StrCat("flag --spill_dir: another node uses '", directory, "': stop it, or choose another directory"));
}

}  // namespace penstock::server
