// ClearHolds: the node's part of a region's lock (proto/layout/region_layout.h): it frees what the dead held.
//
// Threading:  any thread of the node, one at a time; beside the clients, which go on meanwhile
// Ownership:  none
// Errors:     none: whatever is in the memory, it ends after one look at each slot
// Limits:     252 slots
#pragma once

#include <cstdint>
#include <functional>

#include "proto/layout/region_layout.h"

namespace penstock::server {

// Takes every hold and every wish of sessions for which `is_gone` is true. One that was writing leaves the region marked as
// abandoned.
void ClearHolds(layout::RegionHeader* region, const std::function<bool(uint64_t session)>& is_gone);

}  // namespace penstock::server
