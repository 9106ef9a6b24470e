#include "client/cli/help.h"

#include <algorithm>

#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr size_t kColumns = 88;

constexpr std::string_view kExitCodes =
    "Exit codes: 0 done, 1 other, 2 usage, 3 not found, 4 unavailable, 5 full, 6 refused, 7 "
    "deadline, "
    "8 conflict.";

// `text` in lines that begin with `indent` blanks, the first one excepted.
std::string Wrapped(std::string_view text, size_t indent) {
  std::string out;
  size_t column = indent;
  while (!text.empty()) {
    const size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    if (column > indent && column + 1 + word.size() > kColumns) {
      StrAppend(&out, "\n", std::string(indent, ' '));
      column = indent;
    }
    if (column > indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    text = space == std::string_view::npos ? std::string_view() : text.substr(space + 1);
  }
  return out;
}

std::string FlagForm(const FlagSpec& flag) {
  std::string form = flag.letter == 0 ? "    " : StrCat("-", std::string(1, flag.letter), ", ");
  StrAppend(&form, "--", flag.name);
  if (!flag.value.empty()) StrAppend(&form, " ", flag.value);
  return form;
}

std::string FlagHelp(const FlagSpec& flag) {
  std::string help(flag.help);
  if (!flag.choices.empty()) StrAppend(&help, " (", flag.choices, ")");
  if (flag.repeated) help += " (may be repeated)";
  if (!flag.fallback.empty()) StrAppend(&help, " [default: ", flag.fallback, "]");
  return help;
}

std::string FlagList(absl::Span<const FlagSpec> flags, size_t width) {
  std::string out;
  for (const FlagSpec& flag : flags) {
    const std::string form = FlagForm(flag);
    StrAppend(&out, "  ", form, std::string(width - form.size() + 2, ' '),
              Wrapped(FlagHelp(flag), width + 4), "\n");
  }
  return out;
}

// A verb's own flag may take a common one's letter (`get -o FILE`).
std::vector<FlagSpec> CommonFlagsBeside(const Verb& verb) {
  std::vector<FlagSpec> flags(CommonFlags().begin(), CommonFlags().end());
  for (FlagSpec& common : flags) {
    for (const FlagSpec& own : verb.flags) {
      if (own.letter == common.letter) common.letter = 0;
    }
  }
  return flags;
}

}  // namespace

std::string GeneralHelp() {
  std::string out =
      "penstock: look at and change a Penstock tensor store\n\n"
      "Usage: penstock [FLAGS] VERB [ARGUMENTS] [FLAGS]\n\n"
      "Verbs:\n";
  for (const Verb* verb : AllVerbs()) {
    StrAppend(&out, "  ", verb->name, std::string(12 - verb->name.size(), ' '), verb->summary,
              "\n");
  }
  size_t width = 0;
  for (const FlagSpec& flag : CommonFlags()) width = std::max(width, FlagForm(flag).size());
  StrAppend(&out, "\nFlags of every verb:\n", FlagList(CommonFlags(), width), "\n",
            "`penstock VERB --help` tells the rest; `penstock --version` tells which this is.\n", Wrapped(kExitCodes, 0), "\n");
  return out;
}

std::string VerbHelp(const Verb& verb) {
  const std::vector<FlagSpec> common = CommonFlagsBeside(verb);
  size_t width = 0;
  for (const FlagSpec& flag : verb.flags) width = std::max(width, FlagForm(flag).size());
  for (const FlagSpec& flag : common) width = std::max(width, FlagForm(flag).size());
  std::string out = StrCat("penstock ", verb.name, ": ", verb.summary, "\n\nUsage: penstock ",
                           verb.name, " [FLAGS]", verb.arguments.empty() ? "" : " ", verb.arguments,
                           "\n\n", Wrapped(verb.details, 0), "\n");
  if (!verb.flags.empty()) StrAppend(&out, "\nFlags:\n", FlagList(verb.flags, width));
  StrAppend(&out, "\nFlags of every verb:\n", FlagList(common, width));
  if (!verb.json.empty()) StrAppend(&out, "\nJSON: ", Wrapped(verb.json, 6), "\n");
  if (!verb.examples.empty()) {
    out += "\nExamples:\n";
    for (const Example& example : verb.examples) {
      StrAppend(&out, "  ", example.command, "\n      ", Wrapped(example.about, 6), "\n");
    }
  }
  StrAppend(&out, "\n", Wrapped(kExitCodes, 0), "\n");
  return out;
}

}  // namespace penstock::cli
