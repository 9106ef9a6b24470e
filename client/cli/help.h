// The texts of --help, made from the tables of verbs and flags.
//
// Threading:  any thread; no state.
// Ownership:  returns text.
// Errors:     none.
// Limits:     lines are broken at 88 columns.
#ifndef PENSTOCK_CLIENT_CLI_HELP_H_
#define PENSTOCK_CLIENT_CLI_HELP_H_

#include <string>

#include "client/cli/verb.h"

namespace penstock::cli {

std::string GeneralHelp();
std::string VerbHelp(const Verb& verb);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_HELP_H_
