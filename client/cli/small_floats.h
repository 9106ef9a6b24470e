// Values of the floats below 32 bits.
//
// Threading:  any thread; no state.
// Ownership:  values.
// Errors:     none; bits above a type's width are ignored.
// Limits:     exact: every value of these types is a double.
#ifndef PENSTOCK_CLIENT_CLI_SMALL_FLOATS_H_
#define PENSTOCK_CLIENT_CLI_SMALL_FLOATS_H_

#include <penstock/dtype.h>

#include <cstdint>

namespace penstock::cli {

// `dtype` is f16, bf16, one of f8_*, or f4_e2m1x2 (`bits` holds one of its two values).
double SmallFloatValue(DType dtype, uint32_t bits);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_SMALL_FLOATS_H_
