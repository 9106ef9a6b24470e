// The elements of tensors as people and programs read them.
//
// Decodes every dtype itself, the 16-, 8- and 4-bit floats included, so that `get` can show what
// NumPy has no type for.
//
// Threading:  any thread; no state.
// Ownership:  looks only.
// Errors:     none: f6_* has no addressable elements, callers do not ask (ItemSize is 0).
// Limits:     floats are written in the shortest form that reads back equal in their own precision
// (6-9 digits for f32 and less, up to 17 for f64).
#ifndef PENSTOCK_CLIENT_CLI_ELEMENT_TEXT_H_
#define PENSTOCK_CLIENT_CLI_ELEMENT_TEXT_H_

#include <penstock/dtype.h>
#include <penstock/shape.h>

#include <cstddef>
#include <string>

#include "absl/types/span.h"
#include "client/cli/invocation.h"

namespace penstock::cli {

// "1.5", "-3", "true", "(1+2j)"; an f4_e2m1x2 byte is its two values "0.5|6".
std::string ElementText(DType dtype, const std::byte* element);

// A number, true/false, "nan"/"inf"/"-inf" as text, [re, im] for complex, [low, high] for
// f4_e2m1x2.
Json ElementJson(DType dtype, const std::byte* element);

// Nested brackets as NumPy prints them; above 60 elements the first and last three of each
// dimension. `strides` in bytes.
std::string ArrayText(DType dtype, const Shape& shape, absl::Span<const int64_t> strides,
                      const std::byte* data);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_ELEMENT_TEXT_H_
