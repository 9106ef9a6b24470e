// A verb of the command line, as a row of a table: `penstock ls`.
//
// --help, the completion scripts and the parser all read these rows; each row stands in the file
// of its verb (client/cli/verbs/).
//
// Threading:  constants.
// Ownership:  text is literals.
// Errors:     a verb returns the status that decides the exit code; see Invocation::Report for
// verbs
//             that go on after an error.
// Limits:     none.
#ifndef PENSTOCK_CLIENT_CLI_VERB_H_
#define PENSTOCK_CLIENT_CLI_VERB_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "client/cli/flags.h"

namespace penstock::cli {

class Invocation;

// What an argument is, for completion.
enum class ArgumentKind { kNothing, kTensorName, kFile, kWord };

struct Example {
  std::string_view command;
  std::string_view about;
};

inline constexpr int kAnyNumber = 1 << 20;

struct Verb {
  std::string_view name;
  std::string_view arguments;  // as in the usage line: "NAME FILE"
  int min_arguments = 0;
  int max_arguments = 0;
  ArgumentKind argument_kind = ArgumentKind::kNothing;
  std::string_view words = {};  // what kWord arguments can be: "bash|zsh"
  std::string_view summary;     // one line, in the list of verbs
  std::string_view details;     // what it does, in whole sentences
  std::string_view json;        // what -o json prints
  absl::Span<const FlagSpec> flags = {};
  absl::Span<const Example> examples = {};
  absl::Status (*run)(Invocation& invocation);
};

// All verbs, in the order of --help.
absl::Span<const Verb* const> AllVerbs();
const Verb* FindVerb(std::string_view name);

// --address, --timeout, --output, --help: every verb has them.
absl::Span<const FlagSpec> CommonFlags();

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_VERB_H_
