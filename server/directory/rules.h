// The rules of the protocol that the simulation can switch off, one at a time, to show that it would notice.
//
// In the product every Keeps() is a constant true. tests/unit/server/directory compiles these sources once more with
// PENSTOCK_BREAKABLE_RULES.
//
// Threading:  one thread (simulation only)
// Ownership:  none
// Errors:     none
// Limits:     none
#pragma once

#include <cstdint>

namespace penstock::server::directory {

enum class Rule : uint32_t {
  kNone,
  kPromise,             // who has promised a view to a new home refuses the old home's changes
  kBackupWaited,        // an operation commits only after the backup has the entry
  kSupersedeWaited,     // an operation commits only after the old holders stopped serving
  kLeaseAtHolder,       // a holder serves by name only while its lease lasts
  kLeaseAtHome,         // a home decides only while its lease lasts
  kReturningConfirmed,  // a returning node serves nothing by name before homes confirmed it
  kNameLeaseWaited,     // a put waits for copies that are served under a name lease
  kOperationOnce,       // a late duplicate of a proposal is recognised
  kUnknownDropped,      // a returning node's tensor that a complete history does not know is dropped
  kVerdictCurrent,      // a verdict counts only for the question that it answers
  kTombstoneFloor,      // what a backup collected is not brought back by a late message
  kTombstoneKept,       // tombstones are not collected while a node is absent, nor young
  kAllAnswer,           // home and backup of the last activation must both answer, not only one of them
  kActivation,          // a home serves only after etcd has taken its activation
};

#ifdef PENSTOCK_BREAKABLE_RULES
inline Rule broken_rule = Rule::kNone;
inline bool Keeps(Rule rule) { return rule != broken_rule; }
#else
constexpr bool Keeps(Rule) { return true; }
#endif

}  // namespace penstock::server::directory
