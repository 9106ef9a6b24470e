// The rows of all verbs; each is defined in the file of its name, verbs.cc puts them in order.
//
// Threading:  constants.
// Ownership:  static storage.
// Errors:     none.
// Limits:     none.
#ifndef PENSTOCK_CLIENT_CLI_VERBS_VERBS_H_
#define PENSTOCK_CLIENT_CLI_VERBS_VERBS_H_

#include "client/cli/verb.h"

namespace penstock::cli {

extern const Verb kLs;
extern const Verb kStat;
extern const Verb kPut;
extern const Verb kGet;
extern const Verb kRm;
extern const Verb kCp;
extern const Verb kWatch;
extern const Verb kTop;
extern const Verb kDf;
extern const Verb kNodes;
extern const Verb kNode;
extern const Verb kTenants;
extern const Verb kDrain;
extern const Verb kMove;
extern const Verb kSessions;
extern const Verb kPins;
extern const Verb kQuarantine;
extern const Verb kImport;
extern const Verb kExport;
extern const Verb kEvents;
extern const Verb kSnapshot;
extern const Verb kDoctor;
extern const Verb kBench;
extern const Verb kVersion;
extern const Verb kCompletion;

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_VERBS_VERBS_H_
