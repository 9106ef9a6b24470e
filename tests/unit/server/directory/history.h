// What clients did to one name, and whether some order of it is right: the linearizability checker.
//
// The search is Wing and Gong's with Lowe's memory of (operations done, state) pairs: take any operation that nobody's end
// precedes, apply it, go on; an operation without an end may take effect at any later time or never.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/directory/ids.h"

namespace penstock::server::directory {

constexpr Time kForever = INT64_MAX;

enum class CallKind : uint8_t { kPut, kDelete, kGet, kForget };
enum class CallResult : uint8_t {
  kUnknown,   // it may have happened, or happen yet
  kDone,      // put or delete committed; a get found `value`
  kAbsent,    // get: nothing there; delete: nothing to delete
  kConflict,  // a condition failed
};

struct Call {
  CallKind kind = CallKind::kGet;
  CallResult result = CallResult::kUnknown;
  Time begin = 0;
  Time end = kForever;
  uint64_t value = 0;      // put: what it writes; get: what it found; forget: what may be gone (0: whatever is there)
  bool if_absent = false;
  uint64_t if_value = 0;   // put: only if this is there; 0: no condition
  Version version;         // where known
  std::string Text() const;
};

enum class HistoryVerdict { kRight, kWrong, kUndecided };

// `calls` of one name. kUndecided: the search was cut at `max_states`.
HistoryVerdict CheckLinearizable(const std::vector<Call>& calls, size_t max_states = 400'000);

// A put that began after another had ended has the larger version. Empty, or what is wrong.
std::string CheckVersions(const std::vector<Call>& calls);

}  // namespace penstock::server::directory
