#include "server/penstockd/config_sources.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>

#include "proto/strcat.h"
#include "server/penstockd/flag_table.h"

namespace penstock::server {
namespace {

constexpr size_t kMaxFlagFileBytes = size_t{1} << 20;

struct Word {
  std::string flag;
  std::string value;
  bool has_value = false;
};

absl::StatusOr<Word> SplitWord(std::string_view text, const std::string& source) {
  if (!text.starts_with("--") || text.size() == 2) {
    return absl::InvalidArgumentError(
        StrCat(source, ": '", text, "' is no flag; allowed are --flag=value (see --help)"));
  }
  text.remove_prefix(2);
  Word word;
  const size_t equals = text.find('=');
  word.has_value = equals != std::string_view::npos;
  word.flag = std::string(text.substr(0, equals));
  if (word.has_value) word.value = std::string(text.substr(equals + 1));
  std::replace(word.flag.begin(), word.flag.end(), '-', '_');
  return word;
}

absl::Status UnknownFlag(const std::string& flag, const std::string& source) {
  std::string names;
  for (const Flag& known : AllFlags()) StrAppend(&names, names.empty() ? "--" : ", --", known.name);
  return absl::InvalidArgumentError(StrCat(source, ": unknown flag --", flag, "; allowed are ",
                                           names,
                                           ", --flagfile, --print_config, --version, --help"));
}

// "--switch" and "--noswitch" get their value; true if the word is complete now.
bool CompleteSwitch(Word* word) {
  if (word->has_value) return true;
  const Flag* flag = FindFlag(word->flag);
  if (flag == nullptr && word->flag.starts_with("no")) {
    flag = FindFlag(word->flag.substr(2));
    if (flag == nullptr || !flag->is_switch) return false;
    *word = {flag->name, "false", true};
    return true;
  }
  if (flag == nullptr || !flag->is_switch) return false;
  *word = {flag->name, "true", true};
  return true;
}

bool IsAction(const Word& word, ConfigAction* action) {
  if (word.has_value) return false;
  if (word.flag == "help")
    *action = ConfigAction::kHelp;
  else if (word.flag == "version")
    *action = ConfigAction::kVersion;
  else if (word.flag == "print_config")
    *action = ConfigAction::kPrintConfig;
  else
    return false;
  return true;
}

std::string_view Trim(std::string_view text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace

absl::StatusOr<CommandLine> ReadCommandLine(const std::vector<std::string>& arguments) {
  const std::string source = "command line";
  CommandLine result;
  for (size_t i = 0; i < arguments.size(); ++i) {
    auto word = SplitWord(arguments[i], source);
    if (!word.ok()) return word.status();
    if (IsAction(*word, &result.action)) continue;
    const bool complete = CompleteSwitch(&*word);
    if (word->flag != "flagfile" && FindFlag(word->flag) == nullptr) {
      return UnknownFlag(word->flag, source);
    }
    if (!complete) {
      if (i + 1 == arguments.size()) {
        return absl::InvalidArgumentError(StrCat(source, ": flag --", word->flag,
                                                 " has no value; write --", word->flag, "=VALUE"));
      }
      word->value = arguments[++i];
    }
    if (word->flag == "flagfile") {
      result.flagfile = word->value;
    } else {
      result.settings.push_back({word->flag, word->value, source});
    }
  }
  return result;
}

std::vector<Setting> ReadEnvironment(const Environment& environment) {
  std::vector<Setting> settings;
  for (const Flag& flag : AllFlags()) {
    std::string variable = StrCat("PENSTOCK_", flag.name);
    std::transform(variable.begin(), variable.end(), variable.begin(),
                   [](unsigned char c) { return std::toupper(c); });
    const char* value = environment(variable.c_str());
    if (value != nullptr) settings.push_back({flag.name, value, "environment " + variable});
  }
  return settings;
}

absl::StatusOr<std::vector<Setting>> ReadFlagFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    return absl::NotFoundError(
        StrCat("flag --flagfile: cannot open '", path, "': ", std::strerror(errno)));
  }
  std::vector<Setting> settings;
  std::string line;
  size_t bytes = 0;
  for (int number = 1; std::getline(file, line); ++number) {
    bytes += line.size() + 1;
    const std::string source = StrCat(path, ":", number);
    if (bytes > kMaxFlagFileBytes) {
      return absl::InvalidArgumentError(StrCat(source, ": the flagfile is larger than 1 MiB"));
    }
    std::string_view text = Trim(line);
    if (text.empty() || text.front() == '#') continue;
    std::string with_dashes = text.starts_with("--") ? std::string(text) : StrCat("--", text);
    auto word = SplitWord(with_dashes, source);
    if (!word.ok()) return word.status();
    const bool complete = CompleteSwitch(&*word);
    if (FindFlag(word->flag) == nullptr) return UnknownFlag(word->flag, source);
    if (!complete) {
      return absl::InvalidArgumentError(StrCat(source, ": flag --", word->flag, " has no value"));
    }
    settings.push_back({word->flag, word->value, source});
  }
  if (file.bad()) {
    return absl::InvalidArgumentError(
        StrCat("flag --flagfile: cannot read '", path, "': ", std::strerror(errno)));
  }
  return settings;
}

}  // namespace penstock::server
