#include "client/cli/completion_script.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "client/cli/verb.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

std::vector<FlagSpec> FlagsOf(const Verb& verb) {
  std::vector<FlagSpec> flags(verb.flags.begin(), verb.flags.end());
  for (FlagSpec common : CommonFlags()) {
    for (const FlagSpec& own : verb.flags) {
      if (own.letter == common.letter) common.letter = 0;
    }
    flags.push_back(common);
  }
  return flags;
}

std::string FlagWords(const FlagSpec& flag) {
  std::string words = StrCat("--", flag.name);
  if (flag.letter != 0) StrAppend(&words, " -", std::string(1, flag.letter));
  return words;
}

std::string Spaced(std::string_view choices) {
  std::string words(choices);
  std::replace(words.begin(), words.end(), '|', ' ');
  return words;
}

bool TakesFile(const FlagSpec& flag) { return flag.value == "FILE"; }

// What `compgen` offers after `flag`, as a bash command; empty: nothing is known.
std::string BashValues(const FlagSpec& flag) {
  if (!flag.choices.empty()) return StrCat("compgen -W '", Spaced(flag.choices), "' -- \"$cur\"");
  if (TakesFile(flag)) return "compgen -f -- \"$cur\"";
  return "";
}

std::string BashArguments(const Verb& verb) {
  switch (verb.argument_kind) {
    case ArgumentKind::kTensorName:
      return "_penstock_names \"$cur\"; compgen -f -- \"$cur\"";
    case ArgumentKind::kFile:
      return "compgen -f -- \"$cur\"; _penstock_names \"$cur\"";
    case ArgumentKind::kWord:
      return StrCat("compgen -W '", verb.words, "' -- \"$cur\"");
    case ArgumentKind::kNothing:
      break;
  }
  return ":";
}

std::string BashVerb(const Verb& verb) {
  std::string all;
  std::string with_values;
  for (const FlagSpec& flag : FlagsOf(verb)) {
    StrAppend(&all, all.empty() ? "" : " ", FlagWords(flag));
    if (flag.value.empty()) continue;
    std::string pattern = FlagWords(flag);
    std::replace(pattern.begin(), pattern.end(), ' ', '|');
    const std::string values = BashValues(flag);
    StrAppend(&with_values, "        ", pattern, ") ", values.empty() ? ":" : values,
              "; return ;;\n");
  }
  return StrCat("    ", verb.name, ")\n      case \"$prev\" in\n", with_values,
                "      esac\n      if [[ $cur == -* ]]; then compgen -W '", all,
                "' -- \"$cur\"; return; fi\n      ", BashArguments(verb), "\n      ;;\n");
}

// Text inside '...[...]' of _arguments: brackets, colons and quotes mean something there.
std::string ZshText(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out;
}

std::string ZshFlag(const FlagSpec& flag) {
  std::string value;
  if (!flag.value.empty()) {
    StrAppend(&value, ":", ZshText(flag.value), ":");
    if (!flag.choices.empty()) StrAppend(&value, "(", Spaced(flag.choices), ")");
    if (TakesFile(flag)) value += "_files";
  }
  const std::string about = StrCat("[", ZshText(flag.help), "]", value, "'");
  const std::string repeat = flag.repeated ? "*" : "";
  std::string out = StrCat(" \\\n        '", repeat, "--", flag.name, about);
  if (flag.letter != 0) {
    StrAppend(&out, " \\\n        '", repeat, "-", std::string(1, flag.letter), about);
  }
  return out;
}

std::string ZshArguments(const Verb& verb) {
  switch (verb.argument_kind) {
    case ArgumentKind::kTensorName:
    case ArgumentKind::kFile:
      return " \\\n        '*:name or file:_penstock_names'";
    case ArgumentKind::kWord:
      return StrCat(" \\\n        '1:word:(", verb.words, ")'");
    case ArgumentKind::kNothing:
      break;
  }
  return "";
}

}  // namespace

std::string BashCompletion() {
  std::string verbs;
  std::string cases;
  for (const Verb* verb : AllVerbs()) {
    StrAppend(&verbs, verb->name, " ");
    cases += BashVerb(*verb);
  }
  std::string common;
  for (const FlagSpec& flag : CommonFlags()) StrAppend(&common, FlagWords(flag), " ");
  return StrCat(R"(# Completion of penstock for bash: source <(penstock completion bash)
_penstock_names() {
  command penstock ls --timeout 500ms --limit 200 -- "$1" 2>/dev/null
}

_penstock_candidates() {
  local cur=$1 prev=$2 verb=$3
  case "$verb" in
    '') compgen -W ')",
                verbs, common, R"(' -- "$cur" ;;
)",
                cases, R"(  esac
}

_penstock() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb='' i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${COMP_WORDS[i]}" in
      --address | -a | --timeout | --output | -o) ((i++)) ;;
      -*) ;;
      *) verb=${COMP_WORDS[i]}; break ;;
    esac
  done
  COMPREPLY=()
  local line
  while IFS= read -r line; do
    COMPREPLY+=("$line")
  done < <(_penstock_candidates "$cur" "$prev" "$verb")
  if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]]; then compopt -o nospace 2>/dev/null; fi
}

complete -F _penstock penstock
)");
}

std::string ZshCompletion() {
  std::string verbs;
  std::string cases;
  for (const Verb* verb : AllVerbs()) {
    StrAppend(&verbs, "    '", verb->name, ":", ZshText(verb->summary), "'\n");
    StrAppend(&cases, "    ", verb->name, ")\n      _arguments");
    for (const FlagSpec& flag : FlagsOf(*verb)) cases += ZshFlag(flag);
    StrAppend(&cases, ZshArguments(*verb), "\n      ;;\n");
  }
  return StrCat(R"zsh(#compdef penstock
# Completion of penstock for zsh: put it into a folder of $fpath as _penstock.
_penstock_names() {
  local -a names
  names=(${(f)"$(command penstock ls --timeout 500ms --limit 200 -- "$PREFIX" 2>/dev/null)"})
  compadd -a names
  _files
}

_penstock() {
  local -a verbs
  verbs=(
)zsh",
                verbs, R"zsh(  )
  if ((CURRENT == 2)); then
    _describe verb verbs
    return
  fi
  local verb=$words[2]
  shift words
  ((CURRENT--))
  case "$verb" in
)zsh",
                cases, R"zsh(  esac
}

if [[ $funcstack[1] == _penstock ]]; then _penstock "$@"; else compdef _penstock penstock; fi
)zsh");
}

}  // namespace penstock::cli
