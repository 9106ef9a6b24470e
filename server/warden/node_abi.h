// NodeAbi: the number that tells a warden whether a libpenstock_node.so speaks its language.
//
// The library can be replaced while a warden runs (the next node uses it), so the two may be of
// different builds. NodeContext, WardenClient and NodeConfig cross between them as C++ objects: a
// library with another layout of them would crash instead of saying so.
//
// Threading:  any thread
// Ownership:  none
// Errors:     none
// Limits:     sees sizes and kNodeAbiVersion only: raise the version when a meaning or the order
//             of WardenClient's functions changes
#ifndef PENSTOCK_SERVER_WARDEN_NODE_ABI_H_
#define PENSTOCK_SERVER_WARDEN_NODE_ABI_H_

#include <cstdint>

#include "server/penstockd/config.h"
#include "server/warden/warden_client.h"

namespace penstock::warden {

inline constexpr uint64_t kNodeAbiVersion = 3;

inline constexpr uint64_t kNodeAbi = kNodeAbiVersion << 48 | uint64_t{sizeof(NodeContext)} << 24 |
                                     uint64_t{sizeof(server::NodeConfig)};

}  // namespace penstock::warden

// Exported by libpenstock_node.so (node_abi.cc is compiled into it).
extern "C" uint64_t penstock_node_abi();

#endif  // PENSTOCK_SERVER_WARDEN_NODE_ABI_H_
