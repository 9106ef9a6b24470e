#include "transport/fault_point.h"

#ifdef PENSTOCK_FAULT_POINTS

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

namespace penstock {

namespace {
const char* FaultDirectory() {
  static const char* const directory = getenv("PENSTOCK_FAULT_DIR");  // tests only
  return directory;
}
}  // namespace

const bool kFaultDirectorySet = FaultDirectory() != nullptr;

void ReachFaultPoint(const char* name) {
  const char* directory = FaultDirectory();
  if (directory == nullptr) return;
  char path[512];
  if (snprintf(path, sizeof(path), "%s/%s", directory, name) >= static_cast<int>(sizeof(path))) return;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  char text[8] = {};
  const ssize_t n = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (n < 0 || unlink(path) != 0) return;  // another process was first
  // To this thread: a signal to the process might reach another one first, and this one would run on.
  syscall(SYS_tgkill, getpid(), gettid(), strncmp(text, "stop", 4) == 0 ? SIGSTOP : SIGKILL);
}

}  // namespace penstock

#endif
