// penstock df: where the node's memory is.
#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/table.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "bytes", .letter = 'b', .help = "exact bytes instead of rounded sizes"},
};

constexpr Example kExamples[] = {
    {"penstock df", "budget, segments, tensors, drafts, and what still waits for readers"},
    {"penstock df -o json | jq .retired_bytes", "bytes that are deleted but still pinned"},
};

std::string Percent(uint64_t part, uint64_t whole) {
  if (whole == 0) return "-";
  return StrCat(part * 100 / whole, "%");
}

// "" without any.
std::string QuotaText(const v1::DfResponse& df) {
  std::string text;
  const auto add = [&text](const std::string& one) { StrAppend(&text, text.empty() ? "" : ", ", one); };
  if (df.max_tensors() > 0) add(StrCat(df.tensors() + df.drafts() + df.withheld(), " of ", df.max_tensors(), " tensors and drafts"));
  if (df.max_pins() > 0) add(StrCat("room for ", df.max_pins(), " pins"));
  if (df.max_requests_per_s() > 0) add(StrCat(df.max_requests_per_s(), " requests a second (", df.throttled(), " have waited)"));
  return text;
}

absl::Status Run(Invocation& invocation) {
  CLI_ASSIGN_OR_RETURN(const v1::DfResponse df,
                       invocation.Call<v1::DfResponse>(rpc::Method::kDf, v1::DfRequest()));
  if (invocation.json()) {
    invocation.PrintJson(MessageJson(df));
    return absl::OkStatus();
  }
  const bool exact = invocation.args().Has("bytes");
  const uint64_t budget = df.memory_bytes();
  Table table({{"WHAT"},
               {"COUNT", Table::Align::kRight},
               {"SIZE", Table::Align::kRight},
               {"OF BUDGET", Table::Align::kRight}});
  const auto row = [&](std::string what, std::string count, uint64_t bytes) {
    table.Add({std::move(what), std::move(count), exact ? StrCat(bytes) : FormatSize(bytes),
               Percent(bytes, budget)});
  };
  row("memory budget", "", budget);
  row("segments (memory taken)", StrCat(df.arenas() + df.extents()), df.segment_bytes());
  row("  arenas (the node writes)", StrCat(df.arenas()), df.arena_bytes());
  row("  extents (sessions write)", StrCat(df.extents()), df.extent_bytes());
  row("tensors", StrCat(df.tensors()), df.tensor_bytes());
  row("  of them evictable", "", df.cache_bytes());
  row("  of them spilled to disk", StrCat(df.spilled()), df.spilled_bytes());
  row("  their blocks", "", df.block_bytes());
  row("drafts (not published)", StrCat(df.drafts()), df.draft_bytes());
  row("withheld (not by name)", StrCat(df.withheld()), df.withheld_bytes());
  if (df.damaged() > 0) row("damaged (put aside)", StrCat(df.damaged()), df.damaged_bytes());
  row("retired (deleted, in use)", StrCat(df.retired()), df.retired_bytes());
  row("channels", StrCat(df.channels()), df.channel_bytes());
  row("regions", StrCat(df.regions()), df.region_bytes());
  row("leaving (unmapping)", "", df.leaving_bytes());
  row("quarantined (given up)", "", df.quarantined_bytes());
  row("catalog", "", df.catalog_bytes());
  table.Print();
  invocation.Print(StrCat("\n", df.pins(), " pins, ", df.sessions(),
                          " sessions, pages: ", df.page_kind(), "\n"));
  if (df.quarantined() > 0) invocation.Print(StrCat(df.quarantined(), " of those withheld are quarantined: `penstock quarantine` shows and settles them\n"));
  if (const std::string quotas = QuotaText(df); !quotas.empty()) invocation.Print(StrCat("quotas: ", quotas, "\n"));
  if (df.lost() + df.under_replicated() + df.repaired() > 0) {
    invocation.Print(StrCat("of the names at home here ", df.lost(), " are lost (penstock events), ", df.under_replicated(),
                            " lack copies; ", df.repaired(), " copies (", FormatSize(df.repaired_bytes()), ") were made here again\n"));
  }
  return absl::OkStatus();
}

}  // namespace

const Verb kDf = {
    .name = "df",
    .summary = "show where the node's memory is",
    .details =
        "Shows the memory budget and what it is used for. Segments are memory taken from the "
        "system, free space in them included; blocks are tensors rounded up as the allocator "
        "places them; withheld is what the cluster's directory keeps here without serving it by name "
        "(being replaced, not confirmed after this node was away, or quarantined: see `penstock quarantine`); retired is what was deleted "
        "or replaced while somebody still reads it; damaged is what a restart of the node found impossible in its "
        "catalog, and keeps without serving it (penstock events tells what).",
    .json =
        "an object with the fields of DfResponse in store.proto: memory_bytes, segment_bytes, "
        "tensor_bytes, block_bytes, draft_bytes, withheld_bytes, held_bytes, retired_bytes, tensors, drafts, withheld, held, retired, pins, "
        "sessions, arena_bytes, extent_bytes, arenas, extents, catalog_bytes, leaving_bytes, quarantined_bytes, "
        "page_kind, cache_bytes, puts, deletes, evictions, expirations, adoptions, checksum_errors, started_ns, "
        "generation, channels, channel_bytes, regions, region_bytes, damaged, damaged_bytes, max_tensors, max_pins, "
        "max_requests_per_s, throttled, quarantined, lost, under_replicated, repaired, repaired_bytes, spill_limit_bytes, spilled, spilled_bytes, spills, spill_ins",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
