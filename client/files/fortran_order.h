// Turns an array in Fortran order into C order.
//
// Threading:  any thread; no state.
// Ownership:  the caller's buffers; they do not overlap.
// Errors:     none.
// Limits:     one element at a time, in blocks that fit the cache.
#ifndef PENSTOCK_CLIENT_FILES_FORTRAN_ORDER_H_
#define PENSTOCK_CLIENT_FILES_FORTRAN_ORDER_H_

#include <penstock/shape.h>

#include <cstddef>

namespace penstock {

// Both buffers hold all elements of `shape`, each of `item_bytes`.
void FortranToC(const Shape& shape, size_t item_bytes, const std::byte* fortran, std::byte* c);

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_FORTRAN_ORDER_H_
