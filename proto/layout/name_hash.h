// The keyed hash of tensor names in the catalog's index.
//
// Inline because a warm get is a hash, a probe and a pin. Multiply-and-fold over 16-byte steps (the construction of
// wyhash); the key comes from the catalog header.
//
// Threading:  any thread
// Ownership:  none
// Errors:     none
// Limits:     reads exactly `size` bytes
#pragma once

#include <cstdint>
#include <cstring>

namespace penstock::layout {

inline uint64_t FoldMultiply(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t HashName(const char* data, uint64_t size, const uint64_t key[2]) {
  auto load8 = [](const char* p) { uint64_t v; std::memcpy(&v, p, 8); return v; };
  auto load4 = [](const char* p) { uint32_t v; std::memcpy(&v, p, 4); return uint64_t{v}; };
  uint64_t h = key[0] ^ (size * 0x9E3779B97F4A7C15ull);
  uint64_t left = size;
  for (; left > 16; left -= 16, data += 16) {
    h = FoldMultiply(load8(data) ^ key[1], load8(data + 8) ^ h);
  }
  uint64_t a = 0;
  uint64_t b = 0;
  if (left >= 8) {
    a = load8(data);
    b = load8(data + left - 8);
  } else if (left >= 4) {
    a = load4(data);
    b = load4(data + left - 4);
  } else if (left > 0) {
    a = static_cast<unsigned char>(data[0]) | uint64_t{static_cast<unsigned char>(data[left / 2])} << 8 |
        uint64_t{static_cast<unsigned char>(data[left - 1])} << 16;
  }
  h = FoldMultiply(a ^ key[1] ^ 0xE7037ED1A0B428DBull, b ^ h);
  return FoldMultiply(h ^ 0x8EBC6AF09C88C6E3ull, h ^ key[0]);
}

}  // namespace penstock::layout
