#include "client/files/safetensors.h"

#include <cstdint>
#include <string_view>
#include <utility>

#include "client/files/safetensors_header.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

constexpr size_t kLengthBytes = 8;

uint64_t LittleEndian64(absl::Span<const std::byte> bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | std::to_integer<uint64_t>(bytes[size_t(i)]);
  return value;
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<SafetensorsFile> result = Parse(file->bytes());
  if (!result.ok()) {
    return absl::Status(result.status().code(), StrCat(path, ": ", result.status().message()));
  }
  result->file_ = *std::move(file);
  return result;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(absl::Span<const std::byte> bytes) {
  if (bytes.size() < kLengthBytes) {
    return absl::InvalidArgumentError(
        StrCat("safetensors: the file has ", bytes.size(), " bytes; its header needs 8 or more"));
  }
  const uint64_t header_bytes = LittleEndian64(bytes);
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(StrCat("safetensors: header length ", header_bytes,
                                             " is above the limit of ", kMaxSafetensorsHeaderBytes,
                                             "; is this a safetensors file?"));
  }
  if (header_bytes > bytes.size() - kLengthBytes) {
    return absl::InvalidArgumentError(StrCat("safetensors: header length ", header_bytes,
                                             " is more than the ", bytes.size() - kLengthBytes,
                                             " bytes that follow it"));
  }
  const std::string_view json(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes,
                              header_bytes);
  const absl::Span<const std::byte> buffer = bytes.subspan(kLengthBytes + header_bytes);
  absl::StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(json, buffer.size());
  if (!header.ok()) return header.status();
  SafetensorsFile file;
  file.metadata_ = std::move(header->metadata);
  file.has_metadata_ = header->has_metadata;
  file.tensors_.reserve(header->entries.size());
  for (SafetensorsEntry& entry : header->entries) {
    file.tensors_.push_back(
        FileTensor{.name = std::move(entry.spec.name),
                   .dtype = entry.spec.dtype,
                   .shape = entry.spec.shape,
                   .data = buffer.subspan(entry.begin, entry.end - entry.begin)});
  }
  return file;
}

}  // namespace penstock
