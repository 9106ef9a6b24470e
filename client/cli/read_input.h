// Bytes from a file, a pipe or standard input, read to the end or into the caller's memory.
//
// Threading:  one thread.
// Ownership:  closes what it opened; standard input stays open.
// Errors:     those of open and read, with the path.
// Limits:     ReadAll holds everything in memory.
#ifndef PENSTOCK_CLIENT_CLI_READ_INPUT_H_
#define PENSTOCK_CLIENT_CLI_READ_INPUT_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/unique_fd.h"

namespace penstock::cli {

class InputFile {
 public:
  struct Contents {
    std::unique_ptr<std::byte[]> bytes;
    size_t size = 0;
  };

  // "-" is standard input.
  static absl::StatusOr<InputFile> Open(const std::string& path);

  // Fills `buffer`, or less at the end of the input.
  absl::StatusOr<size_t> Read(void* buffer, size_t size);
  absl::StatusOr<Contents> ReadAll();

  bool is_device() const;  // a character device: may have no end

 private:
  InputFile(UniqueFd owned, int fd, std::string path);

  UniqueFd owned_;
  int fd_;
  std::string path_;
};

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_READ_INPUT_H_
