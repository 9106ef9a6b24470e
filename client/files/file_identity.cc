#include "client/files/file_identity.h"

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "proto/errors.h"
#include "proto/names.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

std::string Readable(std::string_view path) {
  if (IsValidUtf8(path)) return std::string(path);
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string text;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      text += c;
    } else {
      text += '%';
      text += kDigits[byte / 16];
      text += kDigits[byte % 16];
    }
  }
  return text;
}

}  // namespace

absl::StatusOr<std::string> FileIdentity(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, StrCat("stat ", path));
  return FileIdentity(path, info);
}

absl::StatusOr<std::string> FileIdentity(const std::string& path, const struct stat& info) {
  const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr), std::free);
  if (real == nullptr) return ErrnoStatus(errno, StrCat("resolve ", path));
  const int64_t nanoseconds = int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
  return StrCat(Readable(real.get()), ":", info.st_size, ":", nanoseconds, ":", info.st_ino);
}

}  // namespace penstock
