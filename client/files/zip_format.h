// Signatures and little-endian fields of the ZIP format, for reader and writer.
//
// Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 (records) and 4.5.3 (zip64 extra field).
//
// Threading:  any thread; no state.
// Ownership:  none.
// Errors:     none: the caller proves that the bytes are there.
// Limits:     what .npz files use; no encryption, no several disks.
#ifndef PENSTOCK_CLIENT_FILES_ZIP_FORMAT_H_
#define PENSTOCK_CLIENT_FILES_ZIP_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/types/span.h"

namespace penstock::zip {

inline constexpr uint32_t kLocalSignature = 0x04034b50;
inline constexpr uint32_t kCentralSignature = 0x02014b50;
inline constexpr uint32_t kEndSignature = 0x06054b50;
inline constexpr uint32_t kEnd64Signature = 0x06064b50;
inline constexpr uint32_t kLocator64Signature = 0x07064b50;

inline constexpr size_t kLocalBytes = 30;
inline constexpr size_t kCentralBytes = 46;
inline constexpr size_t kEndBytes = 22;
inline constexpr size_t kEnd64Bytes = 56;
inline constexpr size_t kLocator64Bytes = 20;

inline constexpr uint16_t kExtra64Id = 1;
inline constexpr uint16_t kFlagEncrypted = 1;
inline constexpr uint16_t kFlagDescriptor = 1u << 3;
inline constexpr uint16_t kFlagUtf8 = 1u << 11;
inline constexpr uint16_t kStored = 0;
inline constexpr uint16_t kDeflated = 8;
inline constexpr uint32_t kIn64 = 0xFFFFFFFF;  // "see the zip64 field"
inline constexpr uint16_t kCountIn64 = 0xFFFF;

// The little-endian number of type T at `offset`; offset + sizeof(T) <= bytes.size().
template <class T>
T Read(absl::Span<const std::byte> bytes, size_t offset) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value |= std::to_integer<uint64_t>(bytes[offset + i]) << (8 * i);
  }
  return static_cast<T>(value);
}

template <class T>
void Append(std::string* out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    out->push_back(static_cast<char>(static_cast<uint64_t>(value) >> (8 * i)));
  }
}

}  // namespace penstock::zip

#endif  // PENSTOCK_CLIENT_FILES_ZIP_FORMAT_H_
