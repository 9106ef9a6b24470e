// Boxes that are to make a whole.
//
// Threading:  functions
// Ownership:  none
// Errors:     CheckApart: InvalidArgument
// Limits:     Missing: as many boxes as the gaps need, cut along the dimensions
#ifndef PENSTOCK_CLIENT_SHARDS_BOXES_H_
#define PENSTOCK_CLIENT_SHARDS_BOXES_H_

#include <penstock/box.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace penstock::client {

// That they have nothing in common.
absl::Status CheckApart(const Box& a, const Box& b);
// What the boxes leave uncovered of a tensor of `shape`, as disjoint boxes.
std::vector<Box> Missing(const Shape& shape, absl::Span<const Box> boxes);

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SHARDS_BOXES_H_
