// Numbers of the control calls in the submission ring (RingOp::kCall): the methods of service Store
// in store.proto.
//
// Threading:  constants
// Ownership:  none
// Errors:     a node that does not know a number answers UNIMPLEMENTED
// Limits:     numbers are wire format; never reuse one
#pragma once

#include <cstdint>

namespace penstock::rpc {

enum class Method : uint32_t {
  kNodeInfo = 1,
  kStat = 5,
  kLongestPrefix = 6,
  kDelete = 7,
  kDeletePrefix = 8,
  kList = 9,
  kWait = 10,
  kWatch = 11,
  kDf = 12,
  kSessions = 13,
  kPins = 14,
  kAllocate = 15,
  kPublish = 16,
  kAbort = 17,
  kOpenRead = 18,  // these by the ring only
  kCloseRead = 19,
  kMeasurePeer = 20,
  kCommit = 21,
  kForgetNode = 22,
  kDrainNode = 23,
  kMoveTensor = 24,
  kRestartNode = 25,
  kQuarantined = 26,
  kSettleQuarantined = 27,
};

}  // namespace penstock::rpc
