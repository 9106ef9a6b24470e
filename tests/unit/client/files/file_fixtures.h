// What the tests of file formats share: a temporary directory, bytes of text, files written and
// read.
#ifndef PENSTOCK_TESTS_UNIT_CLIENT_FILES_FILE_FIXTURES_H_
#define PENSTOCK_TESTS_UNIT_CLIENT_FILES_FILE_FIXTURES_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace penstock {

class TempDir {
 public:
  TempDir() {
    std::string pattern = testing::TempDir() + "penstock-files-XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }

  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  const std::string& path() const { return path_; }
  size_t count() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path_),
                                             std::filesystem::directory_iterator()));
  }

 private:
  std::string path_;
};

inline absl::Span<const std::byte> BytesOf(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline std::string_view TextOf(absl::Span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline void Put(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary)
      .write(text.data(), static_cast<std::streamsize>(text.size()));
}

inline std::string Slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::string LittleEndian(uint64_t value, size_t bytes) {
  std::string out;
  for (size_t i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
  return out;
}

// "ok", or the message.
inline std::string MessageOf(const absl::Status& status) {
  return status.ok() ? "ok" : std::string(status.message());
}

}  // namespace penstock

#endif  // PENSTOCK_TESTS_UNIT_CLIENT_FILES_FILE_FIXTURES_H_
