// The flags of the command line: what a verb accepts, as a table, and what the user wrote.
//
// The same table is the parser's grammar, the text of --help and the source of the completion
// scripts, so that the three cannot differ. Forms: --name VALUE, --name=VALUE, -n VALUE, -nVALUE,
// bundled switches (-lr); "--" ends the flags; a lone "-" is an argument.
//
// Threading:  values; one thread at a time.
// Ownership:  tables are constants and outlive everything; Args owns what the user wrote.
// Errors:     INVALID_ARGUMENT that names the flag, the value and what is allowed (exit code 2).
// Limits:     none.
#ifndef PENSTOCK_CLIENT_CLI_FLAGS_H_
#define PENSTOCK_CLIENT_CLI_FLAGS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace penstock::cli {

struct FlagSpec {
  std::string_view name;           // without the dashes
  char letter = 0;                 // short form; 0 = none
  std::string_view value = {};     // placeholder of its value in --help; empty: a switch
  std::string_view fallback = {};  // value when it is not given; empty: none
  std::string_view help = {};
  std::string_view choices = {};  // "table|json": nothing else is allowed
  bool repeated = false;          // may be given several times
};

class Args {
 public:
  bool Has(std::string_view name) const { return values_.count(name) != 0; }  // written by the user
  // What was written, the last time; else the flag's fallback.
  const std::string& Get(std::string_view name) const;
  const std::vector<std::string>& All(std::string_view name) const;

  // The values in their types; errors name the flag. Absent without a fallback: nullopt.
  absl::StatusOr<std::optional<uint64_t>> Number(std::string_view name) const;
  absl::StatusOr<std::optional<uint64_t>> Size(std::string_view name) const;
  absl::StatusOr<std::optional<absl::Duration>> Duration(std::string_view name) const;

  const std::vector<std::string>& positional() const { return positional_; }

 private:
  friend class FlagParser;
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
  std::map<std::string, std::string, std::less<>> fallbacks_;
  std::vector<std::string> positional_;
};

class FlagParser {
 public:
  // `tables` must outlive the parser; on a letter or name that is in two of them, the first wins.
  explicit FlagParser(std::vector<absl::Span<const FlagSpec>> tables);

  // Reads words from `*position` on. With `stop_at_argument` it ends before the first word that is
  // no flag (the verb). May be called again to go on into the same Args.
  absl::Status Parse(absl::Span<const std::string> words, size_t* position, bool stop_at_argument,
                     Args* args) const;

  const FlagSpec* Find(std::string_view name) const;
  const FlagSpec* Find(char letter) const;

 private:
  absl::Status ParseLong(absl::Span<const std::string> words, size_t* position, Args* args) const;
  absl::Status ParseShort(absl::Span<const std::string> words, size_t* position, Args* args) const;
  absl::Status Store(const FlagSpec& flag, std::string value, Args* args) const;

  std::vector<absl::Span<const FlagSpec>> tables_;
};

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_FLAGS_H_
