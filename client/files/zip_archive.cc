// Members of a ZIP archive: local headers, checksums, unpacking. The directory is read in
// zip_directory.cc.
#include "client/files/zip_archive.h"

#include <zlib.h>

#include <algorithm>
#include <new>
#include <string_view>
#include <utility>

#include "client/files/zip_directory.h"
#include "client/files/zip_format.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

absl::Status Bad(std::string_view member, std::string_view why) {
  return absl::InvalidArgumentError(StrCat("zip: member \"", member, "\": ", why));
}

// Checks the local header of `entry` and gives the offset of its packed bytes.
absl::StatusOr<uint64_t> FindPacked(absl::Span<const std::byte> bytes, const zip::Entry& entry,
                                    uint64_t limit) {
  if (entry.local_offset > limit || limit - entry.local_offset < zip::kLocalBytes) {
    return Bad(entry.name, StrCat("local header at ", entry.local_offset, " is outside the file"));
  }
  const auto local = bytes.subspan(entry.local_offset, limit - entry.local_offset);
  if (zip::Read<uint32_t>(local, 0) != zip::kLocalSignature) {
    return Bad(entry.name, StrCat("no local header at ", entry.local_offset));
  }
  const auto name_bytes = zip::Read<uint16_t>(local, 26);
  const auto extra_bytes = zip::Read<uint16_t>(local, 28);
  const uint64_t packed = zip::kLocalBytes + uint64_t{name_bytes} + extra_bytes;
  if (packed > local.size() || entry.packed_bytes > local.size() - packed) {
    return Bad(entry.name, StrCat("its ", entry.packed_bytes, " packed bytes run past the end"));
  }
  const std::string_view name(reinterpret_cast<const char*>(local.data()) + zip::kLocalBytes,
                              name_bytes);
  if (name != entry.name || zip::Read<uint16_t>(local, 8) != entry.method) {
    return Bad(entry.name, "local header has another name or method than the directory");
  }
  const bool has_descriptor = (zip::Read<uint16_t>(local, 6) & zip::kFlagDescriptor) != 0;
  if (!has_descriptor && zip::Read<uint32_t>(local, 14) != entry.crc32) {
    return Bad(entry.name, "local header has another checksum than the directory");
  }
  return entry.local_offset + packed;
}

// Where each member's bytes begin and end, local header included.
struct Extent {
  uint64_t begin;
  uint64_t end;
  std::string_view name;
};

absl::Status CheckDisjoint(std::vector<Extent> extents) {
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].begin < extents[i - 1].end) {
      return Bad(extents[i].name, StrCat("overlaps member \"", extents[i - 1].name, "\""));
    }
  }
  return absl::OkStatus();
}

uint32_t Checksum(absl::Span<const std::byte> bytes) {
  return static_cast<uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

absl::Status WrongChecksum(const ZipMember& member) {
  return absl::DataLossError(
      StrCat("zip: member \"", member.name, "\": its checksum is wrong; the file is damaged"));
}

// Unpacks into exactly `out`; false if the stream is bad, shorter or longer.
bool InflateExactly(absl::Span<const std::byte> packed, absl::Span<std::byte> out) {
  constexpr size_t kMaxStep = size_t{1} << 30;  // zlib counts in 32 bits
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) return false;
  std::byte spare{};  // room that must stay unused: an output that is too long is seen
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(packed.data()));
  size_t in_left = packed.size();
  size_t out_left = out.size();
  std::byte* next_out = out.data();
  int result = Z_OK;
  while (result == Z_OK) {
    stream.avail_in = static_cast<uInt>(std::min(in_left, kMaxStep));
    const bool full = out_left == 0;
    stream.next_out = reinterpret_cast<Bytef*>(full ? &spare : next_out);
    stream.avail_out = full ? 1 : static_cast<uInt>(std::min(out_left, kMaxStep));
    const uInt in_before = stream.avail_in;
    const uInt out_before = stream.avail_out;
    result = inflate(&stream, Z_NO_FLUSH);
    const size_t produced = out_before - stream.avail_out;
    in_left -= in_before - stream.avail_in;
    if (full && produced > 0) result = Z_DATA_ERROR;
    if (!full) {
      out_left -= produced;
      next_out += produced;
    }
  }
  inflateEnd(&stream);
  return result == Z_STREAM_END && in_left == 0 && out_left == 0;
}

}  // namespace

absl::StatusOr<ZipArchive> ZipArchive::Parse(absl::Span<const std::byte> bytes) {
  absl::StatusOr<zip::Directory> directory = zip::ReadDirectory(bytes);
  if (!directory.ok()) return directory.status();
  ZipArchive archive;
  std::vector<Extent> extents;
  for (zip::Entry& entry : directory->entries) {
    const absl::StatusOr<uint64_t> packed = FindPacked(bytes, entry, directory->offset);
    if (!packed.ok()) return packed.status();
    extents.push_back({entry.local_offset, *packed + entry.packed_bytes, entry.name});
  }
  if (absl::Status status = CheckDisjoint(extents); !status.ok()) return status;
  for (size_t i = 0; i < extents.size(); ++i) {
    zip::Entry& entry = directory->entries[i];
    archive.members_.push_back(ZipMember{
        .name = std::move(entry.name),
        .deflated = entry.method == zip::kDeflated,
        .crc32 = entry.crc32,
        .size_bytes = entry.size_bytes,
        .packed = bytes.subspan(extents[i].end - entry.packed_bytes, entry.packed_bytes)});
  }
  return archive;
}

absl::Status CheckStored(const ZipMember& member) {
  if (Checksum(member.packed) != member.crc32) return WrongChecksum(member);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<std::byte[]>> Inflate(const ZipMember& member) {
  // Not zeroed: pages are touched only as far as bytes really come.
  std::unique_ptr<std::byte[]> buffer(new (std::nothrow) std::byte[member.size_bytes]);
  if (buffer == nullptr) {
    return absl::ResourceExhaustedError(
        StrCat("zip: member \"", member.name, "\": no memory for ", member.size_bytes, " bytes"));
  }
  const absl::Span<std::byte> out(buffer.get(), member.size_bytes);
  if (!InflateExactly(member.packed, out)) {
    return Bad(member.name,
               StrCat("does not unpack to the ", member.size_bytes, " bytes promised"));
  }
  if (Checksum(out) != member.crc32) return WrongChecksum(member);
  return buffer;
}

}  // namespace penstock
