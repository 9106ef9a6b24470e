#include "proto/names.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "proto/strcat.h"

namespace penstock {
namespace {

// Bytes of the well-formed UTF-8 character at the start of `text`, 0 if there is none (Unicode 15,
// table 3-7).
size_t CharacterBytes(std::string_view text) {
  const auto byte = [&](size_t i) -> uint8_t {
    return i < text.size() ? static_cast<uint8_t>(text[i]) : 0;
  };
  const auto continues = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const uint8_t first = byte(0);
  if (text.empty()) return 0;
  if (first < 0x80) return 1;
  if (first < 0xC2) return 0;  // a continuation byte, or an overlong form
  if (first < 0xE0) return continues(1) ? 2 : 0;
  if (first < 0xF0) {
    if (first == 0xE0 && byte(1) < 0xA0) return 0;   // overlong
    if (first == 0xED && byte(1) >= 0xA0) return 0;  // surrogates
    return continues(1) && continues(2) ? 3 : 0;
  }
  if (first > 0xF4) return 0;
  if (first == 0xF0 && byte(1) < 0x90) return 0;   // overlong
  if (first == 0xF4 && byte(1) >= 0x90) return 0;  // above U+10FFFF
  return continues(1) && continues(2) && continues(3) ? 4 : 0;
}

// What people may see of a text that can hold anything.
std::string Printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 64)) {
    const bool plain = c >= 0x20 && c < 0x7F;
    if (plain) {
      out.push_back(c);
    } else {
      constexpr char kHex[] = "0123456789abcdef";
      const auto byte = static_cast<uint8_t>(c);
      StrAppend(&out, "\\x", kHex[byte >> 4], kHex[byte & 15]);
    }
  }
  if (text.size() > 64) out += "...";
  return out;
}

absl::Status Refuse(std::string_view field, std::string_view text, std::string_view why) {
  return absl::InvalidArgumentError(StrCat(field, ": \"", Printable(text), "\" ", why));
}

bool IsDots(std::string_view part) { return part == "." || part == ".."; }

// Characters, length and parts. The last part of a prefix may be anything that a part can begin
// with.
absl::Status CheckPath(std::string_view field, std::string_view text, bool is_prefix) {
  if (text.size() > kMaxNameBytes) {
    return Refuse(field, text,
                  StrCat("has ", text.size(), " bytes; at most ", kMaxNameBytes, " are allowed"));
  }
  size_t part_start = 0;
  for (size_t at = 0; at < text.size();) {
    const auto c = static_cast<uint8_t>(text[at]);
    if (c >= 0x20 && c < 0x7F && c != '/') {  // nearly all of them; a get comes here too
      ++at;
      continue;
    }
    const size_t bytes = CharacterBytes(text.substr(at));
    if (bytes == 0) return Refuse(field, text, StrCat("is not valid UTF-8 at byte ", at));
    if (c < 0x20 || c == 0x7F || (c == 0xC2 && static_cast<uint8_t>(text[at + 1]) < 0xA0)) {
      return Refuse(field, text, StrCat("has a control character at byte ", at));
    }
    if (c == '/') {
      const std::string_view part = text.substr(part_start, at - part_start);
      if (part.empty()) return Refuse(field, text, StrCat("has an empty part at byte ", at));
      if (IsDots(part)) return Refuse(field, text, StrCat("has a part \"", part, "\""));
      part_start = at + 1;
    }
    at += bytes;
  }
  if (is_prefix) return absl::OkStatus();
  const std::string_view last = text.substr(part_start);
  if (last.empty()) {
    return Refuse(field, text, text.empty() ? "is empty" : "ends in '/', an empty part");
  }
  if (IsDots(last)) return Refuse(field, text, StrCat("has a part \"", last, "\""));
  return absl::OkStatus();
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t bytes = CharacterBytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

absl::Status ValidateName(std::string_view name) {
  return CheckPath("name", name, /*is_prefix=*/false);
}

absl::Status ValidateUserName(std::string_view name) {
  if (absl::Status status = ValidateName(name); !status.ok()) return status;
  const std::string_view reserved = kReservedPrefix.substr(0, kReservedPrefix.size() - 1);
  if (name == reserved || name.substr(0, kReservedPrefix.size()) == kReservedPrefix) {
    return Refuse("name", name, StrCat("is reserved: names in ", kReservedPrefix, " are internal"));
  }
  return absl::OkStatus();
}

absl::Status ValidateInternalName(std::string_view name) {
  if (absl::Status status = ValidateName(name); !status.ok()) return status;
  if (name.substr(0, kReservedPrefix.size()) == kReservedPrefix) return absl::OkStatus();
  return Refuse("name", name, StrCat("must begin with ", kReservedPrefix));
}

absl::Status ValidatePrefix(std::string_view prefix) {
  return CheckPath("prefix", prefix, /*is_prefix=*/true);
}

absl::Status ValidateMetadata(absl::Span<const MetadataItem> items) {
  size_t total_bytes = 0;
  std::vector<std::string_view> keys;
  for (const auto& [key, value] : items) {
    if (key.empty()) return absl::InvalidArgumentError("metadata: a key is empty");
    if (!IsValidUtf8(key)) return Refuse("metadata", key, "is a key that is not valid UTF-8");
    if (!IsValidUtf8(value)) return Refuse("metadata", key, "has a value that is not valid UTF-8");
    total_bytes += key.size() + value.size();
    keys.push_back(key);
  }
  if (total_bytes > kMaxMetadataBytes) {
    return absl::InvalidArgumentError(StrCat("metadata: keys and values have ", total_bytes,
                                             " bytes; at most ", kMaxMetadataBytes,
                                             " are allowed"));
  }
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice != keys.end()) return Refuse("metadata", *twice, "is a key that comes twice");
  return absl::OkStatus();
}

}  // namespace penstock
