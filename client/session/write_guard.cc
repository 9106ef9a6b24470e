#include "client/session/write_guard.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

namespace penstock::client {
namespace {

// Moves the entries of [from, from + length); both ranges are mapped to the same bytes then. The
// kernel drops what was at `to` first and may then fail (memory for its own structures).
bool MoveEntries(char* from, char* to, uint64_t length) {
  return mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) == to;
}

// Maps what is at `from` at `to` as well, without entries.
bool MapAgain(char* from, char* to, uint64_t length) {
  return mremap(from, 0, length, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
}

}  // namespace

WriteGuard::~WriteGuard() {
  if (can_move_) {
    if (reserved_ != nullptr) munmap(reserved_, reserved_bytes_);
    return;
  }
  for (const auto& [begin, end] : moved_) munmap(spare_ + begin, end - begin);
}

void WriteGuard::ChildReset() {
  reserved_ = spare_ = nullptr;
  moved_.clear();
  used_ = false;
}

void WriteGuard::Protect(const Mapping& writable, uint64_t first, uint64_t length) {
  used_ = true;
  if (length >= kMoveBytes && MoveAway(writable, first, length)) {
    moved_[first] = first + length;
  }
  // Without entries there is nothing to visit. Fails only when the process has too many mappings;
  // then a late write is not caught.
  (void)writable.Protect(false, first, length);
}

absl::Status WriteGuard::Unprotect(const Mapping& writable, uint64_t first, uint64_t length) {
  if (!used_) return absl::OkStatus();
  if (!MoveBack(writable, first, first + length)) {
    return absl::ResourceExhaustedError("no memory for the mapping of a block");
  }
  return writable.Protect(true, first, length);
}

bool WriteGuard::MoveAway(const Mapping& writable, uint64_t first, uint64_t length) {
  if (!can_move_) return false;
  if (reserved_ == nullptr) {
    const uint64_t bytes = writable.size() + kHugePageBytes;
    void* range =
        mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return false;
    madvise(range, bytes, MADV_DONTFORK);
    reserved_ = static_cast<char*>(range);
    reserved_bytes_ = bytes;
    // Tables move whole when both places are alike in their 2 MiB.
    const auto place =
        reinterpret_cast<uintptr_t>(writable.data()) - reinterpret_cast<uintptr_t>(range);
    spare_ = reserved_ + place % kHugePageBytes;
  }
  if (MoveEntries(writable.data() + first, spare_ + first, length)) return true;
  // The range may be somebody else's now: only what was moved before is still known to be ours.
  can_move_ = false;
  return false;
}

bool WriteGuard::MoveBack(const Mapping& writable, uint64_t first, uint64_t last) {
  auto it = moved_.upper_bound(first);
  if (it != moved_.begin() && std::prev(it)->second > first) --it;
  while (it != moved_.end() && it->first < last) {
    const auto [begin, end] = *it;
    const uint64_t from = std::max(begin, first);
    const uint64_t to = std::min(end, last);
    char* const home = writable.data() + from;
    // Mapped again, the entries come back one by one, by faults.
    if (!MoveEntries(spare_ + from, home, to - from) && !MapAgain(spare_ + from, home, to - from)) {
      return false;
    }
    it = moved_.erase(it);
    if (begin < from) moved_[begin] = from;
    if (to < end) it = moved_.emplace(to, end).first;
  }
  return true;
}

}  // namespace penstock::client
