// penstock top: a live picture of a node: memory, tensors, sessions, rates.
#include <algorithm>
#include <cstdio>
#include <map>

#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/session_rows.h"
#include "client/cli/terminal.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "once", .letter = '1', .help = "one picture, then end; needs no terminal"},
    {.name = "interval", .letter = 'i', .value = "TIME", .fallback = "1s", .help = "between two"},
};

constexpr Example kExamples[] = {
    {"penstock top", "live, until Ctrl-C"},
    {"penstock top -1", "one picture; its rates are averages since the node's start"},
};

struct Sample {
  absl::Time time;
  v1::NodeInfoResponse node;
  v1::DfResponse df;
  v1::SessionsResponse sessions;
};

struct Rates {
  double puts = 0;
  double deletes = 0;
  double evictions = 0;
  std::map<uint64_t, double> requests;  // by session
};

absl::StatusOr<Sample> TakeSample(Invocation& invocation) {
  Sample sample;
  CLI_ASSIGN_OR_RETURN(sample.node, invocation.Call<v1::NodeInfoResponse>(rpc::Method::kNodeInfo,
                                                                          v1::NodeInfoRequest()));
  CLI_ASSIGN_OR_RETURN(sample.df,
                       invocation.Call<v1::DfResponse>(rpc::Method::kDf, v1::DfRequest()));
  CLI_ASSIGN_OR_RETURN(sample.sessions, invocation.Call<v1::SessionsResponse>(
                                            rpc::Method::kSessions, v1::SessionsRequest()));
  sample.time = absl::Now();
  return sample;
}

double Rate(uint64_t before, uint64_t after, absl::Duration elapsed) {
  // A node that was started again counts from 0.
  if (after < before || elapsed <= absl::ZeroDuration()) return 0;
  return static_cast<double>(after - before) / absl::ToDoubleSeconds(elapsed);
}

Rates RatesBetween(const Sample* before, const Sample& after) {
  const absl::Time started = absl::FromUnixNanos(static_cast<int64_t>(after.df.started_ns()));
  const absl::Duration elapsed = after.time - (before == nullptr ? started : before->time);
  const v1::DfResponse zero;
  const v1::DfResponse& was = before == nullptr ? zero : before->df;
  Rates rates;
  rates.puts = Rate(was.puts(), after.df.puts(), elapsed);
  rates.deletes = Rate(was.deletes(), after.df.deletes(), elapsed);
  rates.evictions = Rate(was.evictions(), after.df.evictions(), elapsed);
  for (const v1::SessionInfo& session : after.sessions.sessions()) {
    const absl::Time opened = absl::FromUnixNanos(static_cast<int64_t>(session.opened_ns()));
    rates.requests[session.id()] = Rate(0, session.requests(), after.time - opened);
  }
  if (before != nullptr) {
    for (const v1::SessionInfo& session : before->sessions.sessions()) {
      const auto rate = rates.requests.find(session.id());
      if (rate == rates.requests.end()) continue;
      const double total =
          rate->second *
          absl::ToDoubleSeconds(after.time -
                                absl::FromUnixNanos(static_cast<int64_t>(session.opened_ns())));
      rate->second = Rate(session.requests(), static_cast<uint64_t>(total + 0.5), elapsed);
    }
  }
  return rates;
}

Json TopJson(const Sample& sample, const Rates& rates) {
  Json json;
  json["time"] = TimeText(sample.time);
  json["node"] = MessageJson(sample.node);
  json["df"] = MessageJson(sample.df);
  json["rates"] = {
      {"puts", rates.puts}, {"deletes", rates.deletes}, {"evictions", rates.evictions}};
  json["sessions"] = Json::array();
  for (const v1::SessionInfo& session : sample.sessions.sessions()) {
    Json row = MessageJson(session);
    row["requests_per_second"] = rates.requests.at(session.id());
    json["sessions"].push_back(std::move(row));
  }
  return json;
}

std::string Bar(uint64_t part, uint64_t whole, size_t cells) {
  const size_t filled = whole == 0 ? 0 : std::min<size_t>(cells, part * cells / whole);
  return StrCat("[", std::string(filled, '#'), std::string(cells - filled, '.'), "]");
}

std::string PerSecond(double rate) {
  char text[32];
  std::snprintf(text, sizeof(text), rate < 10 && rate != 0 ? "%.2f/s" : "%.0f/s", rate);
  return text;
}

void PrintPicture(const Invocation& invocation, const Sample& sample, const Rates& rates) {
  const v1::DfResponse& df = sample.df;
  const absl::Time started = absl::FromUnixNanos(static_cast<int64_t>(sample.node.started_ns()));
  invocation.Print(StrCat(Styled(Style::kBold, StrCat("penstock ", sample.node.version())),
                          "  node ", sample.node.node_uuid().substr(0, 8), " (pid ",
                          sample.node.pid(), ", start ", sample.node.generation(), ")  up ",
                          AgeText(sample.time - started), "  ", sample.node.socket_dir(),
                          "  pages ", df.page_kind(), "\n"));
  invocation.Print(StrCat("memory   ", Bar(df.segment_bytes(), df.memory_bytes(), 30), " ",
                          FormatSize(df.segment_bytes()), " of ", FormatSize(df.memory_bytes()),
                          " taken; tensors ", FormatSize(df.tensor_bytes()), ", drafts ",
                          FormatSize(df.draft_bytes()), ", retired ",
                          FormatSize(df.retired_bytes()), "\n"));
  invocation.Print(StrCat("tensors  ", df.tensors(), " live, ", df.drafts(), " drafts, ",
                          df.retired(), " retired, ", df.pins(), " pins\n"));
  invocation.Print(StrCat("rates    puts ", PerSecond(rates.puts), ", deletes ",
                          PerSecond(rates.deletes), ", evictions ", PerSecond(rates.evictions),
                          "\n\n"));
  v1::SessionsResponse busiest = sample.sessions;
  std::stable_sort(busiest.mutable_sessions()->begin(), busiest.mutable_sessions()->end(),
                   [&](const v1::SessionInfo& a, const v1::SessionInfo& b) {
                     return rates.requests.at(a.id()) > rates.requests.at(b.id());
                   });
  SessionTable(busiest, &rates.requests).Print();
}

absl::Status Run(Invocation& invocation) {
  const bool once = invocation.args().Has("once");
  CLI_ASSIGN_OR_RETURN(const std::optional<absl::Duration> interval,
                       invocation.args().Duration("interval"));
  if (*interval <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("--interval: '0' is not allowed; write a time such as 1s");
  }
  CLI_ASSIGN_OR_RETURN(Sample sample, TakeSample(invocation));
  Rates rates = RatesBetween(nullptr, sample);
  if (!once) CatchInterrupts();
  while (true) {
    if (invocation.json()) {
      invocation.PrintJson(TopJson(sample, rates));
    } else {
      if (!once && StdoutIsTerminal()) invocation.Print("\x1b[H\x1b[2J");
      PrintPicture(invocation, sample, rates);
      if (!once && !StdoutIsTerminal()) invocation.Print("\n");
    }
    if (once || std::fflush(stdout) != 0) return absl::OkStatus();
    WaitForInterrupt(*interval);
    if (Interrupted()) return absl::OkStatus();
    CLI_ASSIGN_OR_RETURN(Sample next, TakeSample(invocation));
    rates = RatesBetween(&sample, next);
    sample = std::move(next);
  }
}

}  // namespace

const Verb kTop = {
    .name = "top",
    .summary = "show memory, tensors, sessions and rates, live",
    .details =
        "Redraws a picture of the node every second until Ctrl-C; the busiest sessions come "
        "first. The first picture, and the only one of -1, shows averages since the start.",
    .json =
        "one object per picture and line: time, node (as in `nodes`), df (as in `df`), rates "
        "{puts, deletes, evictions} per second, sessions (as in `sessions`, with "
        "requests_per_second)",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
