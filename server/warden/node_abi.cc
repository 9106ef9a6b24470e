#include "server/warden/node_abi.h"

extern "C" uint64_t penstock_node_abi() { return penstock::warden::kNodeAbi; }
extern "C" const char* penstock_node_version() { return PENSTOCK_VERSION; }
