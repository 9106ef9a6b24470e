// Mapping: one mmap of a segment's descriptor, unmapped when its owner goes.
//
//   auto map = Mapping::MapReadOnly(fd, size, PageKind::kTransparentHuge);
//   if (map.ok()) read(map->data(), map->size());
//
// Mappings of 2 MiB and more are placed on a 2 MiB boundary: only then can huge pages be used.
//
// Threading:  the memory is as shared as its users make it; the object one thread at a time
// Ownership:  owns the address range, not the descriptor (which may be closed after mapping);
//             Release() gives the range up, for memory whose users outlive every owner
// Errors:     PERMISSION_DENIED (writable mapping of a sealed file), INVALID_ARGUMENT (range
// outside
//             the mapping), RESOURCE_EXHAUSTED (memory, address space, cgroup)
// Limits:     the caller checks that the file is at least `size` long and sealed against shrinking,
//             else reading may be a SIGBUS
#ifndef PENSTOCK_TRANSPORT_SEGMENT_MAPPING_H_
#define PENSTOCK_TRANSPORT_SEGMENT_MAPPING_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/segment/memfd.h"

namespace penstock {

class Mapping {
 public:
  // Shared and writable: for whoever fills the segment. Refused after SealFutureWrite.
  static absl::StatusOr<Mapping> MapWritable(int fd, uint64_t size,
                                             PageKind kind = PageKind::kSmall);
  // Shared and read-only: for readers. If the file is sealed, mprotect cannot make it writable.
  static absl::StatusOr<Mapping> MapReadOnly(int fd, uint64_t size,
                                             PageKind kind = PageKind::kSmall);
  // Copy on write: shows the segment, takes writes, never passes them on.
  static absl::StatusOr<Mapping> MapPrivate(int fd, uint64_t size,
                                            PageKind kind = PageKind::kSmall);

  // Of no file: memory of this process alone, zeroes at first, writable.
  static absl::StatusOr<Mapping> MapAnonymous(uint64_t size);

  Mapping() = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { Unmap(); }

  char* data() const { return data_; }
  uint64_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }

  // Enters the pages of [offset, offset + length) into the page table. write: allocates them too;
  // with a cgroup limit in the way the *process is killed*, so allocate through PopulateChild.
  absl::Status Populate(bool write, uint64_t offset, uint64_t length) const;

  // A forked child does not get this mapping (nor can PopulateChild populate it any more).
  absl::Status DontFork() const;

  // Private mappings: forgets what was written to the pages that lie whole inside the range, which
  // then show the segment again.
  absl::Status DropPrivatePages(uint64_t offset, uint64_t length) const;

  // Makes a range read-only or writable; offset and offset + length on page boundaries (or the
  // end).
  absl::Status Protect(bool writable, uint64_t offset, uint64_t length) const;
  absl::Status Protect(bool writable) const { return Protect(writable, 0, size_); }

  // Gives up ownership: the range stays mapped until the process ends.
  [[nodiscard]] char* Release();

 private:
  Mapping(char* data, uint64_t size) : data_(data), size_(size) {}
  static absl::StatusOr<Mapping> Map(int fd, uint64_t size, int protection, int flags,
                                     PageKind kind);
  absl::Status CheckRange(const char* operation, uint64_t offset, uint64_t length) const;
  void Unmap();

  char* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_SEGMENT_MAPPING_H_
