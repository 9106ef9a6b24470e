#include "client/python/core/fault_messages.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>

#include "proto/errors.h"

namespace penstock::python {
namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr char kMark[] = "penstock";  // in the name of every memfd of the store

constexpr char kMessage[] =
    "\npenstock: this thread wrote to the memory of a tensor, which is read-only: whatever is put\n"
    "in the store stays as it is. Copy the tensor first: view.numpy().copy(), "
    "view.torch().clone().\n"
    "An array of a draft may be written until publish() only. The write came from here:\n\n";

struct sigaction previous;

void Say(const char* text, size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = write(STDERR_FILENO, text, bytes);
    if (n <= 0) return;
    text += n;
    bytes -= static_cast<size_t>(n);
  }
}

// The lines of /proc/self/maps, one by one, without memory of its own.
class MapsReader {
 public:
  MapsReader() : fd_(open("/proc/self/maps", O_RDONLY | O_CLOEXEC)) {}
  ~MapsReader() {
    if (fd_ >= 0) close(fd_);
  }
  MapsReader(const MapsReader&) = delete;
  MapsReader& operator=(const MapsReader&) = delete;

  // False at the end. Long lines are cut.
  bool Next(char* line, size_t capacity) {
    size_t length = 0;
    for (;;) {
      if (at_ == filled_ && !Fill()) break;
      const char c = buffer_[at_++];
      if (c == '\n') break;
      if (length + 1 < capacity) line[length++] = c;
    }
    line[length] = '\0';
    return length > 0;
  }

 private:
  bool Fill() {
    const ssize_t n = fd_ < 0 ? 0 : read(fd_, buffer_, sizeof(buffer_));
    at_ = 0;
    filled_ = n > 0 ? static_cast<size_t>(n) : 0;
    return filled_ > 0;
  }

  int fd_;
  size_t at_ = 0;
  size_t filled_ = 0;
  char buffer_[4096];
};

const char* ParseHex(const char* text, uintptr_t* value) {
  *value = 0;
  for (;; ++text) {
    unsigned digit = 0;
    if (*text >= '0' && *text <= '9') {
      digit = static_cast<unsigned>(*text - '0');
    } else if (*text >= 'a' && *text <= 'f') {
      digit = static_cast<unsigned>(*text - 'a') + 10;
    } else {
      return text;
    }
    *value = *value * 16 + digit;
  }
}

// "7f00-7f01 r--s 0 00:01 1024 /memfd:penstock-..." around `address`, without write permission.
bool IsOurReadOnlyMemory(uintptr_t address) {
  MapsReader maps;
  char line[512];
  while (maps.Next(line, sizeof(line))) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    const char* rest = ParseHex(line, &begin);
    if (*rest != '-') continue;
    rest = ParseHex(rest + 1, &end);
    if (address < begin || address >= end) continue;
    return rest[0] == ' ' && rest[1] == 'r' && rest[2] == '-' &&
           strstr(rest, "memfd:") != nullptr && strstr(rest, kMark) != nullptr;
  }
  return false;
}

void OnFault(int, siginfo_t* info, void*) {
  const int saved = errno;
  if (info->si_code == SEGV_ACCERR &&
      IsOurReadOnlyMemory(reinterpret_cast<uintptr_t>(info->si_addr))) {
    Say(kMessage, sizeof(kMessage) - 1);
  }
  // Back to whoever was there: the instruction runs again and faults into that handler.
  sigaction(SIGSEGV, &previous, nullptr);
  errno = saved;
}

absl::Status Install() {
  stack_t stack = {};
  if (sigaltstack(nullptr, &stack) == 0 && (stack.ss_flags & SS_DISABLE) != 0) {
    void* memory =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
      return ErrnoStatus(errno, "enable_fault_messages: mmap of a signal stack");
    stack.ss_sp = memory;
    stack.ss_size = kStackBytes;
    stack.ss_flags = 0;
    if (sigaltstack(&stack, nullptr) != 0)
      return ErrnoStatus(errno, "enable_fault_messages: sigaltstack");
  }
  struct sigaction action = {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGSEGV, &action, &previous) != 0) {
    return ErrnoStatus(errno, "enable_fault_messages: sigaction");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status InstallFaultMessages() {
  static std::mutex mutex;
  static bool installed = false;
  std::lock_guard<std::mutex> lock(mutex);
  if (installed) return absl::OkStatus();
  absl::Status status = Install();
  installed = status.ok();
  return status;
}

}  // namespace penstock::python
