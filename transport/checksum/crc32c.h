// CRC32C: the checksum of iSCSI (RFC 3720, polynomial of Castagnoli), by Intel's ISA-L (some 10 GB/s a core with SSE 4.2).
//
// Threading:  any thread; the source must not be written meanwhile
// Ownership:  borrows the ranges
// Errors:     none
// Limits:     detects all errors of up to 32 bits in a row, and others with 1 - 2^-32; no protection against forgery
#ifndef PENSTOCK_TRANSPORT_CHECKSUM_CRC32C_H_
#define PENSTOCK_TRANSPORT_CHECKSUM_CRC32C_H_

#include <cstddef>
#include <cstdint>

namespace penstock {

uint32_t Crc32c(const void* data, size_t bytes);  // of no bytes: 0
// Of what `crc` is of, and then `data`.
uint32_t ExtendCrc32c(uint32_t crc, const void* data, size_t bytes);
// CopyBytes, and the checksum of what was copied, in one pass over the source: `dst` has these very bytes even if somebody
// writes the source meanwhile.
uint32_t CopyBytesCrc32c(void* dst, const void* src, size_t bytes);

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_CHECKSUM_CRC32C_H_
