// TensorInfo from where it comes: a pinned record, a message of the node.
//
// Threading:  any thread
// Ownership:  copies everything
// Errors:     a record's metadata that cannot be read is left out
// Limits:     allocates; not for the path of a get
#ifndef PENSTOCK_CLIENT_INFO_H_
#define PENSTOCK_CLIENT_INFO_H_

#include <penstock/client.h>

#include <string>

#include "proto/layout/catalog_layout.h"
#include "store.pb.h"

namespace penstock::client {

// The record is pinned.
TensorInfo InfoOf(const layout::Record* record, const std::string& node_uuid);
Metadata MetadataOf(const layout::Record* record);
TensorInfo InfoOf(const v1::TensorInfo& message);
TensorEvent EventOf(const v1::Event& message);

// "kernel" or "writer".
std::string ImmutableBy(bool kernel);

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_INFO_H_
