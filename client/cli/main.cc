// The command line `penstock`: finds the verb, reads its flags, runs it.
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/help.h"
#include "client/cli/invocation.h"
#include "client/cli/verb.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr int kUsageExitCode = 2;

int Usage(std::string_view message, std::string_view where) {
  std::fputs(StrCat("penstock: ", message, "\nSee `penstock", where, " --help`.\n").c_str(),
             stderr);
  return kUsageExitCode;
}

int PrintHelp(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  return std::fflush(stdout) == 0 ? 0 : 1;
}

// The verbs that are one change away from what was written come first in mind.
std::string UnknownVerb(std::string_view word) {
  std::string message = StrCat("'", word, "' is no verb;");
  for (const Verb* verb : AllVerbs()) StrAppend(&message, " ", verb->name);
  return message;
}

absl::Status CheckArguments(const Verb& verb, const Args& args) {
  const auto count = static_cast<int>(args.positional().size());
  if (count >= verb.min_arguments && count <= verb.max_arguments) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(count, count == 1 ? " argument was" : " arguments were", " given; usage: penstock ",
             verb.name, verb.arguments.empty() ? " (none)" : StrCat(" ", verb.arguments)));
}

int Run(const std::vector<std::string>& words) {
  if (words.size() == 1 && words[0] == "--version") return PrintHelp("penstock " PENSTOCK_VERSION "\n");
  Args args;
  size_t position = 0;
  const FlagParser common({CommonFlags()});
  if (absl::Status status = common.Parse(words, &position, true, &args); !status.ok()) {
    return Usage(std::string(status.message()), "");
  }
  if (position == words.size()) {
    if (args.Has("help")) return PrintHelp(GeneralHelp());
    std::fputs(GeneralHelp().c_str(), stderr);
    return kUsageExitCode;
  }
  std::string name = words[position++];
  if (name == "help") {
    if (position == words.size()) return PrintHelp(GeneralHelp());
    const Verb* asked = FindVerb(words[position]);
    return asked == nullptr ? Usage(UnknownVerb(words[position]), "") : PrintHelp(VerbHelp(*asked));
  }
  const Verb* verb = FindVerb(name);
  if (verb == nullptr) return Usage(UnknownVerb(name), "");

  const std::string where = StrCat(" ", verb->name);
  const FlagParser parser({verb->flags, CommonFlags()});
  absl::Status status = parser.Parse(words, &position, false, &args);
  if (status.ok() && args.Has("help")) return PrintHelp(VerbHelp(*verb));
  if (status.ok()) status = CheckArguments(*verb, args);
  if (status.ok()) status = args.Duration("timeout").status();
  if (!status.ok()) return Usage(StrCat(verb->name, ": ", status.message()), where);

  Invocation invocation(*verb, std::move(args));
  return invocation.Finish(verb->run(invocation));
}

}  // namespace
}  // namespace penstock::cli

int main(int argc, char** argv) {
  // A reader that goes away ends us without a word, even when our parent ignored the signal.
  std::signal(SIGPIPE, SIG_DFL);
  return penstock::cli::Run(std::vector<std::string>(argv + 1, argv + argc));
}
