// Scratch: what a node process leaves to the next one, in NodeContext::scratch.
//
// Threading:  one thread writes
// Ownership:  the warden's memory; all zero before the first node process
// Errors:     none
// Limits:     NodeContext::scratch's size; its layout is part of the warden's ABI, so an upgrade may add fields at the end only
#pragma once

#include <cstdint>

#include "server/membership/membership.h"

namespace penstock::server {

struct Scratch {
  int32_t grpc_port;       // chosen by the first node when --grpc_port=0; 0 = not chosen yet
  int32_t data_port;       // likewise
  int32_t http_port;       // likewise
  uint64_t memory_bytes;   // the budget, fixed by the first node
  Membership::Kept member;
  char given_up[512];      // why an earlier node process gave up the memory that it found; told by the next one
};
static_assert(sizeof(Scratch) <= 4096);

}  // namespace penstock::server
