// A node library of a release whose memory has another layout.
#include "server/warden/node_abi.h"

extern "C" uint64_t penstock_node_abi() { return penstock::warden::kNodeAbi + (uint64_t{1} << 48); }
extern "C" const char* penstock_node_version() { return "other"; }
extern "C" int penstock_node_main(penstock::warden::NodeContext*) { return 3; }
