#include "client/files/zip_directory.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "client/files/zip_format.h"
#include "proto/strcat.h"

namespace penstock::zip {
namespace {

absl::Status Bad(std::string_view why) { return absl::InvalidArgumentError(StrCat("zip: ", why)); }

// Place, size and count of the directory, as the end record or its zip64 twin says.
struct Place {
  uint64_t offset = 0;
  uint64_t size = 0;
  uint64_t count = 0;
};

// The end record is the last one whose comment ends with the file.
std::optional<size_t> FindEnd(absl::Span<const std::byte> bytes) {
  if (bytes.size() < kEndBytes) return std::nullopt;
  constexpr size_t kMaxComment = 0xFFFF;
  const size_t last = bytes.size() - kEndBytes;
  const size_t first = last > kMaxComment ? last - kMaxComment : 0;
  for (size_t at = last + 1; at-- > first;) {
    if (Read<uint32_t>(bytes, at) == kEndSignature &&
        Read<uint16_t>(bytes, at + 20) == bytes.size() - at - kEndBytes) {
      return at;
    }
  }
  return std::nullopt;
}

// Reads the zip64 end record that the locator before `end` points to.
absl::StatusOr<Place> ReadEnd64(absl::Span<const std::byte> bytes, size_t end) {
  const size_t locator = end - kLocator64Bytes;
  const auto at = Read<uint64_t>(bytes, locator + 8);
  if (Read<uint32_t>(bytes, locator + 4) != 0 || Read<uint32_t>(bytes, locator + 16) > 1) {
    return Bad("archives on several disks are not read");
  }
  if (at > locator || locator - at < kEnd64Bytes || Read<uint32_t>(bytes, at) != kEnd64Signature) {
    return Bad(StrCat("no zip64 end record at ", at));
  }
  if (Read<uint32_t>(bytes, at + 16) != 0 || Read<uint32_t>(bytes, at + 20) != 0) {
    return Bad("archives on several disks are not read");
  }
  const Place place{.offset = Read<uint64_t>(bytes, at + 48),
                    .size = Read<uint64_t>(bytes, at + 40),
                    .count = Read<uint64_t>(bytes, at + 32)};
  if (place.offset > at || place.size > at - place.offset) {
    return Bad("the directory does not lie before the zip64 end record");
  }
  return place;
}

absl::StatusOr<Place> FindDirectory(absl::Span<const std::byte> bytes) {
  const std::optional<size_t> end = FindEnd(bytes);
  if (!end.has_value()) return Bad("no end record found: not a zip file, or cut off");
  if (*end >= kLocator64Bytes &&
      Read<uint32_t>(bytes, *end - kLocator64Bytes) == kLocator64Signature) {
    return ReadEnd64(bytes, *end);
  }
  if (Read<uint16_t>(bytes, *end + 4) != 0 || Read<uint16_t>(bytes, *end + 6) != 0) {
    return Bad("archives on several disks are not read");
  }
  const Place place{.offset = Read<uint32_t>(bytes, *end + 16),
                    .size = Read<uint32_t>(bytes, *end + 12),
                    .count = Read<uint16_t>(bytes, *end + 10)};
  if (place.offset > *end || place.size > *end - place.offset) {
    return Bad("the directory does not lie before the end record");
  }
  return place;
}

// Fills the sizes and the offset that the entry left to its zip64 field: those only, in this order.
absl::Status ReadExtra64(absl::Span<const std::byte> extra, Entry* entry) {
  std::vector<uint64_t*> wanted;
  for (uint64_t* field : {&entry->size_bytes, &entry->packed_bytes, &entry->local_offset}) {
    if (*field == kIn64) wanted.push_back(field);
  }
  if (wanted.empty()) return absl::OkStatus();
  while (extra.size() >= 4) {
    const auto id = Read<uint16_t>(extra, 0);
    const auto size = Read<uint16_t>(extra, 2);
    extra.remove_prefix(4);
    if (size > extra.size()) break;
    if (id == kExtra64Id && size >= 8 * wanted.size()) {
      for (size_t i = 0; i < wanted.size(); ++i) *wanted[i] = Read<uint64_t>(extra, 8 * i);
      return absl::OkStatus();
    }
    extra.remove_prefix(size);
  }
  return Bad(StrCat("member \"", entry->name, "\": its zip64 field is missing or too short"));
}

absl::Status CheckEntry(const Entry& entry, uint16_t flags, uint16_t disk) {
  const auto bad = [&](std::string_view why) {
    return Bad(StrCat("member \"", entry.name, "\": ", why));
  };
  if ((flags & kFlagEncrypted) != 0) return bad("is encrypted");
  if (disk != 0) return bad("lies on another disk");
  if (entry.method != kStored && entry.method != kDeflated) {
    return bad(StrCat("method ", entry.method, " is not read; allowed: 0 (stored), 8 (deflated)"));
  }
  if (entry.method == kStored && entry.packed_bytes != entry.size_bytes) {
    return bad(
        StrCat("is stored, yet has ", entry.packed_bytes, " packed bytes of ", entry.size_bytes));
  }
  // Deflate packs at most 1032 to 1: a larger promise is a lie.
  constexpr uint64_t kMaxRatio = 1032;
  if (entry.method == kDeflated && entry.size_bytes / kMaxRatio > entry.packed_bytes) {
    return bad(StrCat("promises ", entry.size_bytes, " bytes from ", entry.packed_bytes));
  }
  return absl::OkStatus();
}

// The entry at the start of `rest`, which is cut off from it.
absl::StatusOr<Entry> TakeEntry(absl::Span<const std::byte>* rest) {
  if (rest->size() < kCentralBytes || Read<uint32_t>(*rest, 0) != kCentralSignature) {
    return Bad("the directory has fewer entries than it says");
  }
  const size_t name_bytes = Read<uint16_t>(*rest, 28);
  const size_t extra_bytes = Read<uint16_t>(*rest, 30);
  const size_t comment_bytes = Read<uint16_t>(*rest, 32);
  if (name_bytes + extra_bytes + comment_bytes > rest->size() - kCentralBytes) {
    return Bad("a directory entry runs past the directory");
  }
  Entry entry{
      .name = std::string(reinterpret_cast<const char*>(rest->data()) + kCentralBytes, name_bytes),
      .method = Read<uint16_t>(*rest, 10),
      .crc32 = Read<uint32_t>(*rest, 16),
      .packed_bytes = Read<uint32_t>(*rest, 20),
      .size_bytes = Read<uint32_t>(*rest, 24),
      .local_offset = Read<uint32_t>(*rest, 42)};
  const absl::Span<const std::byte> extra = rest->subspan(kCentralBytes + name_bytes, extra_bytes);
  if (absl::Status status = ReadExtra64(extra, &entry); !status.ok()) return status;
  if (absl::Status status = CheckEntry(entry, Read<uint16_t>(*rest, 8), Read<uint16_t>(*rest, 34));
      !status.ok()) {
    return status;
  }
  rest->remove_prefix(kCentralBytes + name_bytes + extra_bytes + comment_bytes);
  return entry;
}

}  // namespace

absl::StatusOr<Directory> ReadDirectory(absl::Span<const std::byte> bytes) {
  const absl::StatusOr<Place> place = FindDirectory(bytes);
  if (!place.ok()) return place.status();
  Directory directory{.offset = place->offset};
  absl::Span<const std::byte> rest = bytes.subspan(place->offset, place->size);
  std::unordered_set<std::string> names;
  for (uint64_t i = 0; i < place->count; ++i) {
    absl::StatusOr<Entry> entry = TakeEntry(&rest);
    if (!entry.ok()) return entry.status();
    if (!names.insert(entry->name).second) {
      return Bad(StrCat("member \"", entry->name, "\" comes twice"));
    }
    directory.entries.push_back(*std::move(entry));
  }
  if (!rest.empty()) return Bad("the directory has more bytes than its entries");
  return directory;
}

}  // namespace penstock::zip
