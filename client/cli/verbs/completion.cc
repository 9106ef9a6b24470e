// penstock completion: scripts for shells.
#include "client/cli/completion_script.h"
#include "client/cli/invocation.h"
#include "client/cli/verbs/verbs.h"

namespace penstock::cli {
namespace {

constexpr Example kExamples[] = {
    {"source <(penstock completion bash)", "in ~/.bashrc"},
    {"penstock completion zsh > ~/.zfunc/_penstock", "with ~/.zfunc in $fpath before compinit"},
};

absl::Status Run(Invocation& invocation) {
  const std::string& shell = invocation.args().positional()[0];
  if (shell == "bash") {
    invocation.Print(BashCompletion());
  } else if (shell == "zsh") {
    invocation.Print(ZshCompletion());
  } else {
    return absl::InvalidArgumentError("completion: SHELL '" + shell +
                                      "' is not allowed; write bash or zsh");
  }
  return absl::OkStatus();
}

}  // namespace

const Verb kCompletion = {
    .name = "completion",
    .arguments = "bash|zsh",
    .min_arguments = 1,
    .max_arguments = 1,
    .argument_kind = ArgumentKind::kWord,
    .words = "bash zsh",
    .summary = "print a completion script for a shell",
    .details =
        "Prints a script that completes verbs, flags, their values, files, and names of tensors "
        "(the first 200 that begin with what is typed, from the running store).",
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
