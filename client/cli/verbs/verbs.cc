#include "client/cli/verbs/verbs.h"

namespace penstock::cli {
namespace {

const Verb* const kVerbs[] = {
    &kLs,     &kStat,   &kPut,   &kGet,      &kRm,         &kCp,     &kWatch,
    &kTop,    &kDf,     &kNodes, &kNode, &kTenants, &kDrain, &kMove, &kSessions, &kPins, &kQuarantine, &kImport, &kExport,
    &kSnapshot, &kEvents, &kDoctor, &kBench, &kVersion, &kCompletion,
};

constexpr FlagSpec kCommonFlags[] = {
    {.name = "address",
     .letter = 'a',
     .value = "ADDRESS",
     .help = "the store: a socket directory or host:port [default: $PENSTOCK_ADDRESS, else the "
             "default socket directory]"},
    {.name = "tenant",
     .value = "NAME",
     .help = "whose store, in a directory with those of several [default: $PENSTOCK_TENANT if --address is not given]"},
    {.name = "timeout",
     .value = "TIME",
     .fallback = "5s",
     .help = "how long connecting and each call may take"},
    {.name = "output",
     .letter = 'o',
     .value = "FORMAT",
     .fallback = "table",
     .help = "table for people, json for programs",
     .choices = "table|json"},
    {.name = "help", .letter = 'h', .help = "this text"},
};

}  // namespace

absl::Span<const Verb* const> AllVerbs() { return kVerbs; }

const Verb* FindVerb(std::string_view name) {
  for (const Verb* verb : kVerbs) {
    if (verb->name == name) return verb;
  }
  return nullptr;
}

absl::Span<const FlagSpec> CommonFlags() { return kCommonFlags; }

}  // namespace penstock::cli
