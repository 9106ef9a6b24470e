// How a record's state is changed: clients read it while it changes, without a lock.
//
// Threading:  the node's threads, with the store's lock
// Ownership:  none
// Errors:     none
// Limits:     none
#pragma once

#include <atomic>
#include <cstdint>

#include "proto/layout/catalog_layout.h"

namespace penstock::server {

inline void SetState(layout::Record* record, layout::RecordState state) { record->state.store(static_cast<uint8_t>(state), std::memory_order_seq_cst); }

}  // namespace penstock::server
