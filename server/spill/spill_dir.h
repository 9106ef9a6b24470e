// SpillDir: the folder where a node keeps the bytes of tensors that have no room in its memory, a file each.
//
//   FileHeader (64 bytes) | v1::TensorInfo | zeros up to data_offset (a multiple of 4096) | the tensor's bytes
//
// A file is written under another name, made durable (fdatasync) and then given its own, so one that has its name is whole; and
// header and bytes have a CRC32C, so one that is not is noticed. What does not check out is *set aside*: it gets the ending
// ".bad", is never read again, and may be looked at and deleted by people. Names are numbers: a tensor's name never becomes a path.
//
// Threading:  any thread; at most one at a time for one number. Calls wait for the disk: never with the store's lock
// Ownership:  owns the folder's files with endings of its own; others are left alone. SpillLock keeps other nodes out
// Errors:     ResourceExhausted: the file system is full. DataLoss: a file is not what was written, or is not there; the message
//             names it. Unavailable: any other error of the system
// Limits:     files are written and read in pieces of 4 MiB, through the page cache, which is told to forget them
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "store.pb.h"
#include "transport/unique_fd.h"

namespace penstock::server {

class SpillDir {
 public:
  // Makes the folder if it is not there, and removes what an earlier process did not finish writing.
  static absl::StatusOr<std::unique_ptr<SpillDir>> Open(const std::string& path);

  struct File {
    uint64_t number = 0;
    uint64_t bytes = 0;  // of the file
    v1::TensorInfo info;
  };
  // All whole ones, by what their headers say. Once, before all else: counts them.
  std::vector<File> Scan();

  // info: name, version, dtype, shape, nbytes, and what else shall come back. With a crc32c that the bytes do not have it is DataLoss,
  // and there is no file.
  absl::Status Write(uint64_t number, const v1::TensorInfo& info, const char* data);
  // Into info.nbytes() of memory; what is there is of no use unless it is OK. Checks that it is the file of this very tensor.
  absl::Status Read(uint64_t number, const v1::TensorInfo& info, char* to) const;
  void Remove(uint64_t number);    // there may be none
  void SetAside(uint64_t number);  // likewise

  static uint64_t FileBytes(const v1::TensorInfo& info);
  std::string PathOf(uint64_t number) const;
  const std::string& path() const { return path_; }
  uint64_t used_bytes() const { return used_bytes_.load(); }
  uint64_t set_aside() const { return set_aside_.load(); }  // files, by this process

 private:
  SpillDir(std::string path, UniqueFd folder) : path_(std::move(path)), folder_(std::move(folder)) {}
  absl::StatusOr<File> ReadHeader(uint64_t number, const UniqueFd& file, uint64_t* data_offset, uint32_t* data_crc) const;

  const std::string path_;
  const UniqueFd folder_;
  std::atomic<uint64_t> used_bytes_{0};
  std::atomic<uint64_t> set_aside_{0};
};

}  // namespace penstock::server
