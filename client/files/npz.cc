#include "client/files/npz.h"

#include <string_view>
#include <utility>

#include "proto/names.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

absl::Status Named(const absl::Status& status, std::string_view member) {
  return absl::Status(status.code(), StrCat("npz: member \"", member, "\": ", status.message()));
}

// "a/b.npy" -> "a/b"
absl::StatusOr<std::string> ArrayName(const std::string& member) {
  constexpr std::string_view kSuffix = ".npy";
  const std::string_view text = member;
  if (text.size() <= kSuffix.size() || text.substr(text.size() - kSuffix.size()) != kSuffix) {
    return absl::InvalidArgumentError(StrCat("npz: member \"", text, "\" is not a .npy file"));
  }
  std::string name(text.substr(0, text.size() - kSuffix.size()));
  if (const absl::Status status = ValidateName(name); !status.ok()) {
    return absl::InvalidArgumentError(StrCat("npz: ", status.message()));
  }
  return name;
}

}  // namespace

absl::StatusOr<NpzFile> NpzFile::Open(const std::string& path, const NpzOptions& options) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<NpzFile> result = Parse(file->bytes(), options);
  if (!result.ok()) {
    return absl::Status(result.status().code(), StrCat(path, ": ", result.status().message()));
  }
  result->file_ = *std::move(file);
  return result;
}

absl::StatusOr<NpzFile> NpzFile::Parse(absl::Span<const std::byte> bytes,
                                       const NpzOptions& options) {
  absl::StatusOr<ZipArchive> archive = ZipArchive::Parse(bytes);
  if (!archive.ok()) return archive.status();
  NpzFile file(*std::move(archive));
  uint64_t inflated_bytes = 0;
  for (const ZipMember& member : file.archive_.members()) {
    absl::StatusOr<std::string> name = ArrayName(member.name);
    if (!name.ok()) return name.status();
    file.names_.push_back(*std::move(name));
    if (!member.deflated) continue;
    if (member.size_bytes > options.max_inflated_bytes - inflated_bytes) {
      return absl::ResourceExhaustedError(
          StrCat("npz: with member \"", member.name, "\" the file unpacks to more than ",
                 options.max_inflated_bytes, " bytes (max_inflated_bytes)"));
    }
    inflated_bytes += member.size_bytes;
  }
  return file;
}

absl::StatusOr<NpyArray> NpzFile::Read(size_t i) const {
  const ZipMember& member = archive_.members()[i];
  if (!member.deflated) {
    if (absl::Status status = CheckStored(member); !status.ok()) return status;
    absl::StatusOr<NpyArray> array = NpyArray::Parse(member.packed);
    if (!array.ok()) return Named(array.status(), member.name);
    return array;
  }
  absl::StatusOr<std::unique_ptr<std::byte[]>> buffer = Inflate(member);
  if (!buffer.ok()) return buffer.status();
  absl::StatusOr<NpyArray> array = NpyArray::Adopt(*std::move(buffer), member.size_bytes);
  if (!array.ok()) return Named(array.status(), member.name);
  return array;
}

}  // namespace penstock
