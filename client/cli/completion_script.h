// Completion scripts for bash and zsh, generated from the tables of verbs and flags.
//
// Threading:  any thread; no state.
// Ownership:  returns text.
// Errors:     none.
// Limits:     names of tensors are completed by calling `penstock ls`, at most 200 of them.
#ifndef PENSTOCK_CLIENT_CLI_COMPLETION_SCRIPT_H_
#define PENSTOCK_CLIENT_CLI_COMPLETION_SCRIPT_H_

#include <string>

namespace penstock::cli {

std::string BashCompletion();
std::string ZshCompletion();

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_COMPLETION_SCRIPT_H_
