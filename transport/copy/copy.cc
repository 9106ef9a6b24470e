#include "transport/copy/copy.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace penstock {
namespace {

#if defined(__x86_64__)

constexpr size_t kLine = 64;
constexpr size_t kMinPlainAvx2 = 1024;

// Both kernels copy whole 128-byte groups to a 64-byte aligned destination and return how many
// bytes they did. The caller does the head, the tail and the fence.
__attribute__((target("avx2"))) size_t StreamAvx2(char* dst, const char* src, size_t bytes) {
  size_t done = 0;
  for (; done + 128 <= bytes; done += 128) {
    const auto* in = reinterpret_cast<const __m256i*>(src + done);
    auto* out = reinterpret_cast<__m256i*>(dst + done);
    const __m256i a = _mm256_loadu_si256(in), b = _mm256_loadu_si256(in + 1);
    const __m256i c = _mm256_loadu_si256(in + 2), d = _mm256_loadu_si256(in + 3);
    _mm256_stream_si256(out, a);
    _mm256_stream_si256(out + 1, b);
    _mm256_stream_si256(out + 2, c);
    _mm256_stream_si256(out + 3, d);
  }
  return done;
}

// The C library's memcpy uses `rep movsb` for these sizes, which takes ten times as long on EPYC 7003 when
// source and destination lie 16 bytes apart modulo the page (NumPy aligns to 16, blocks are aligned to 64).
__attribute__((target("avx2"))) void PlainAvx2(char* dst, const char* src, size_t bytes) {
  size_t done = 0;
  for (; done + 128 <= bytes; done += 128) {
    const auto* in = reinterpret_cast<const __m256i*>(src + done);
    auto* out = reinterpret_cast<__m256i*>(dst + done);
    const __m256i a = _mm256_loadu_si256(in), b = _mm256_loadu_si256(in + 1);
    const __m256i c = _mm256_loadu_si256(in + 2), d = _mm256_loadu_si256(in + 3);
    _mm256_storeu_si256(out, a);
    _mm256_storeu_si256(out + 1, b);
    _mm256_storeu_si256(out + 2, c);
    _mm256_storeu_si256(out + 3, d);
  }
  std::memcpy(dst + done, src + done, bytes - done);
}

size_t StreamSse2(char* dst, const char* src, size_t bytes) {
  size_t done = 0;
  for (; done + 64 <= bytes; done += 64) {
    const auto* in = reinterpret_cast<const __m128i*>(src + done);
    auto* out = reinterpret_cast<__m128i*>(dst + done);
    const __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
    const __m128i c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
  }
  return done;
}

const bool has_avx2 = __builtin_cpu_supports("avx2");

void PlainBytes(char* dst, const char* src, size_t bytes) {
  if (bytes >= kMinPlainAvx2 && has_avx2) {
    PlainAvx2(dst, src, bytes);
  } else if (bytes != 0) {
    std::memcpy(dst, src, bytes);
  }
}

void StreamBytes(char* dst, const char* src, size_t bytes) {
  const size_t misaligned = reinterpret_cast<uintptr_t>(dst) % kLine;
  const size_t head = misaligned == 0 ? 0 : std::min(kLine - misaligned, bytes);
  std::memcpy(dst, src, head);
  dst += head;
  src += head;
  bytes -= head;
  const size_t done = has_avx2 ? StreamAvx2(dst, src, bytes) : StreamSse2(dst, src, bytes);
  std::memcpy(dst + done, src + done, bytes - done);
  _mm_sfence();  // non-temporal stores are weakly ordered: publish only what has left the core
}

#else

void PlainBytes(char* dst, const char* src, size_t bytes) {
  if (bytes != 0) std::memcpy(dst, src, bytes);
}

void StreamBytes(char* dst, const char* src, size_t bytes) { std::memcpy(dst, src, bytes); }

#endif

// Warm shared memory in 4 KiB pages, 2 cores of an EPYC 7003, destination not in the cache, GB/s:
//   size      memcpy  streamed  streamed by 2 threads
//   256 KiB     11       19        -
//   1 MiB       11       19        -
//   32 MiB      10       16       12    (starting the thread costs more than it brings)
//   64 MiB      10       15       16
//   1 GiB       13       15       17
// One core nearly fills the memory's channel there: a second thread gives 4-15 %, so it is used for
// large copies only, and only when the caller asks for it.
constexpr size_t kMinBytesPerThread = size_t{32} << 20;

}  // namespace

void CopyBytes(void* dst, const void* src, size_t bytes) {
  if (bytes < kStreamingBytes) {
    PlainBytes(static_cast<char*>(dst), static_cast<const char*>(src), bytes);
    return;
  }
  StreamBytes(static_cast<char*>(dst), static_cast<const char*>(src), bytes);
}

void StreamPart(void* dst, const void* src, size_t bytes) { StreamBytes(static_cast<char*>(dst), static_cast<const char*>(src), bytes); }

void CopyBytesParallel(void* dst, const void* src, size_t bytes, int threads) {
  const size_t useful = bytes / kMinBytesPerThread;
  const size_t parts = std::min<size_t>(std::max(threads, 1), std::max<size_t>(useful, 1));
  // Cut on page boundaries of the destination's offset, so that no two threads write one line.
  const size_t step = (bytes / parts + 4095) / 4096 * 4096;
  std::vector<std::thread> helpers;
  for (size_t begin = step; parts > 1 && begin < bytes; begin += step) {
    const size_t length = std::min(step, bytes - begin);
    helpers.emplace_back(CopyBytes, static_cast<char*>(dst) + begin,
                         static_cast<const char*>(src) + begin, length);
  }
  CopyBytes(dst, src, helpers.empty() ? bytes : step);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace penstock
