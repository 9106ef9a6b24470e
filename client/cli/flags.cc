#include "client/cli/flags.h"

#include <charconv>

#include "proto/sizes.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

const std::string kEmpty;
const std::vector<std::string> kNone;

absl::Status BadValue(std::string_view flag, std::string_view value, std::string_view allowed) {
  return absl::InvalidArgumentError(
      StrCat("--", flag, ": '", value, "' is not allowed; write ", allowed));
}

bool IsChoice(std::string_view choices, std::string_view value) {
  while (true) {
    const size_t bar = choices.find('|');
    if (choices.substr(0, bar) == value) return true;
    if (bar == std::string_view::npos) return false;
    choices.remove_prefix(bar + 1);
  }
}

}  // namespace

const std::string& Args::Get(std::string_view name) const {
  if (const auto it = values_.find(name); it != values_.end()) return it->second.back();
  const auto it = fallbacks_.find(name);
  return it == fallbacks_.end() ? kEmpty : it->second;
}

const std::vector<std::string>& Args::All(std::string_view name) const {
  const auto it = values_.find(name);
  return it == values_.end() ? kNone : it->second;
}

absl::StatusOr<std::optional<uint64_t>> Args::Number(std::string_view name) const {
  const std::string& text = Get(name);
  if (text.empty() && !Has(name)) return std::nullopt;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return BadValue(name, text, "a whole number, 0 or more");
  }
  return value;
}

absl::StatusOr<std::optional<uint64_t>> Args::Size(std::string_view name) const {
  const std::string& text = Get(name);
  if (text.empty() && !Has(name)) return std::nullopt;
  const absl::StatusOr<uint64_t> value = ParseSize(text);
  if (!value.ok()) return BadValue(name, text, "a size such as 4096, 64KiB or 1GiB");
  return *value;
}

absl::StatusOr<std::optional<absl::Duration>> Args::Duration(std::string_view name) const {
  const std::string& text = Get(name);
  if (text.empty() && !Has(name)) return std::nullopt;
  const absl::StatusOr<absl::Duration> value = ParseDuration(text);
  if (!value.ok()) return BadValue(name, text, "a time such as 250ms, 5s or 10m");
  return *value;
}

FlagParser::FlagParser(std::vector<absl::Span<const FlagSpec>> tables)
    : tables_(std::move(tables)) {}

const FlagSpec* FlagParser::Find(std::string_view name) const {
  for (const auto& table : tables_) {
    for (const FlagSpec& flag : table) {
      if (flag.name == name) return &flag;
    }
  }
  return nullptr;
}

const FlagSpec* FlagParser::Find(char letter) const {
  for (const auto& table : tables_) {
    for (const FlagSpec& flag : table) {
      if (flag.letter == letter) return &flag;
    }
  }
  return nullptr;
}

absl::Status FlagParser::Parse(absl::Span<const std::string> words, size_t* position,
                               bool stop_at_argument, Args* args) const {
  for (const auto& table : tables_) {
    for (const FlagSpec& flag : table) {
      if (!flag.fallback.empty())
        args->fallbacks_.try_emplace(std::string(flag.name), flag.fallback);
    }
  }
  bool flags_over = false;
  while (*position < words.size()) {
    const std::string& word = words[*position];
    if (flags_over || word.size() < 2 || word[0] != '-') {
      if (stop_at_argument) return absl::OkStatus();
      args->positional_.push_back(word);
      ++*position;
    } else if (word == "--") {
      flags_over = true;
      ++*position;
    } else {
      const absl::Status status =
          word[1] == '-' ? ParseLong(words, position, args) : ParseShort(words, position, args);
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status FlagParser::ParseLong(absl::Span<const std::string> words, size_t* position,
                                   Args* args) const {
  const std::string_view word = std::string_view(words[(*position)++]).substr(2);
  const size_t equals = word.find('=');
  const FlagSpec* flag = Find(word.substr(0, equals));
  if (flag == nullptr) {
    return absl::InvalidArgumentError(StrCat("unknown flag --", word.substr(0, equals)));
  }
  if (equals != std::string_view::npos) {
    if (flag->value.empty()) {
      return BadValue(flag->name, word.substr(equals + 1), StrCat("--", flag->name, " alone"));
    }
    return Store(*flag, std::string(word.substr(equals + 1)), args);
  }
  if (flag->value.empty()) return Store(*flag, "", args);
  if (*position == words.size()) {
    return absl::InvalidArgumentError(StrCat("--", flag->name, " needs a value: ", flag->value));
  }
  return Store(*flag, words[(*position)++], args);
}

absl::Status FlagParser::ParseShort(absl::Span<const std::string> words, size_t* position,
                                    Args* args) const {
  const std::string& word = words[(*position)++];
  for (size_t i = 1; i < word.size(); ++i) {
    const FlagSpec* flag = Find(word[i]);
    if (flag == nullptr) {
      return absl::InvalidArgumentError(
          StrCat("unknown flag -", word.substr(i, 1), word.size() > 2 ? StrCat(" in ", word) : ""));
    }
    if (flag->value.empty()) {
      if (absl::Status status = Store(*flag, "", args); !status.ok()) return status;
      continue;
    }
    if (i + 1 < word.size()) return Store(*flag, word.substr(i + 1), args);
    if (*position == words.size()) {
      return absl::InvalidArgumentError(
          StrCat("-", word.substr(i, 1), " needs a value: ", flag->value));
    }
    return Store(*flag, words[(*position)++], args);
  }
  return absl::OkStatus();
}

absl::Status FlagParser::Store(const FlagSpec& flag, std::string value, Args* args) const {
  if (!flag.choices.empty() && !IsChoice(flag.choices, value)) {
    return BadValue(flag.name, value, flag.choices);
  }
  std::vector<std::string>& values = args->values_[std::string(flag.name)];
  if (!flag.repeated && !flag.value.empty() && !values.empty() && values.back() != value) {
    return absl::InvalidArgumentError(
        StrCat("--", flag.name, " was given twice: '", values.back(), "' and '", value, "'"));
  }
  values.push_back(std::move(value));
  return absl::OkStatus();
}

}  // namespace penstock::cli
