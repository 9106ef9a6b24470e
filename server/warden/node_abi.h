// NodeAbi: the number that tells a warden whether a libpenstock_node.so speaks its language.
//
// The library can be replaced while a warden runs (the next node uses it), so the two may be of
// different builds. NodeContext, WardenClient and NodeConfig cross between them as C++ objects: a
// library with another layout of them would crash instead of saying so.
//
// Threading:  any thread
// Ownership:  none
// Errors:     none
// Limits:     sees sizes, the layout version and kNodeAbiVersion only: raise the last one when a
//             meaning, the order of WardenClient's functions, or the form of what is kept from one
//             node process to the next (scratch page, blobs of sessions, books) changes. The layout
//             version (proto/layout) stands for what clients read, too
#ifndef PENSTOCK_SERVER_WARDEN_NODE_ABI_H_
#define PENSTOCK_SERVER_WARDEN_NODE_ABI_H_

#include <cstdint>

#include "proto/layout/catalog_layout.h"
#include "server/penstockd/config.h"
#include "server/warden/warden_client.h"

namespace penstock::warden {

inline constexpr uint64_t kNodeAbiVersion = 4;

inline constexpr uint64_t kNodeAbi = kNodeAbiVersion << 56 | uint64_t{layout::kLayoutVersion} << 48 |
                                     uint64_t{sizeof(NodeContext)} << 24 | uint64_t{sizeof(server::NodeConfig)};
static_assert(kNodeAbiVersion < 256 && layout::kLayoutVersion < 256);

constexpr uint64_t LayoutOfAbi(uint64_t abi) { return abi >> 48 & 0xff; }

}  // namespace penstock::warden

// Exported by libpenstock_node.so (node_abi.cc is compiled into it).
extern "C" uint64_t penstock_node_abi();
extern "C" const char* penstock_node_version();

#endif  // PENSTOCK_SERVER_WARDEN_NODE_ABI_H_
