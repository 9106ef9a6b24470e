#include "transport/checksum/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

#include "transport/copy/copy.h"

namespace penstock {
namespace {

constexpr size_t kAtOnce = size_t{1} << 30;   // ISA-L counts in int
constexpr size_t kInCache = size_t{64} << 10;  // copied, then read again while it is there

}  // namespace

uint32_t ExtendCrc32c(uint32_t crc, const void* data, size_t bytes) {
  auto* at = static_cast<unsigned char*>(const_cast<void*>(data));  // ISA-L only reads it
  uint32_t state = ~crc;
  while (bytes > 0) {
    const size_t now = std::min(bytes, kAtOnce);
    state = crc32_iscsi(at, static_cast<int>(now), state);
    at += now;
    bytes -= now;
  }
  return ~state;
}

uint32_t Crc32c(const void* data, size_t bytes) { return ExtendCrc32c(0, data, bytes); }

uint32_t CopyBytesCrc32c(void* dst, const void* src, size_t bytes) {
  auto* to = static_cast<char*>(dst);
  const auto* from = static_cast<const char*>(src);
  uint32_t crc = 0;
  while (bytes > 0) {
    const size_t now = std::min(bytes, kInCache);
    CopyBytes(to, from, now);
    crc = ExtendCrc32c(crc, to, now);
    to += now;
    from += now;
    bytes -= now;
  }
  return crc;
}

}  // namespace penstock
