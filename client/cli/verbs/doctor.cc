// penstock doctor: is this machine, and the store on it, as it should be?
#include "client/cli/doctor_checks.h"
#include "client/cli/invocation.h"
#include "client/cli/terminal.h"
#include "client/cli/verbs/verbs.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "no-node", .help = "look at the machine only: before a node runs"},
};

constexpr Example kExamples[] = {
    {"penstock doctor", "one line per check: ok, warn or fail, and what to do"},
    {"penstock doctor --no-node", "is this machine fit for a node?"},
};

std::string_view HealthName(Health health) {
  return health == Health::kOk ? "ok" : health == Health::kWarn ? "warn" : "fail";
}

Style HealthStyle(Health health) {
  return health == Health::kOk     ? Style::kGood
         : health == Health::kWarn ? Style::kWarn
                                   : Style::kBad;
}

void PrintFinding(const Invocation& invocation, const Finding& finding) {
  const std::string_view name = HealthName(finding.health);
  const std::string check = StrCat(
      finding.check, std::string(finding.check.size() < 17 ? 17 - finding.check.size() : 0, ' '));
  invocation.Print(StrCat(Styled(HealthStyle(finding.health), name),
                          std::string(6 - name.size(), ' '), check, " ", finding.found, "\n"));
  if (!finding.advice.empty()) {
    invocation.Print(StrCat(std::string(24, ' '), "-> ", finding.advice, "\n"));
  }
}

absl::Status Run(Invocation& invocation) {
  std::vector<Finding> findings = CheckSystem();
  for (Finding& finding : CheckNetwork()) findings.push_back(std::move(finding));
  if (!invocation.args().Has("no-node")) {
    for (Finding& finding : CheckStore(invocation)) findings.push_back(std::move(finding));
  }
  int failed = 0;
  Json json = Json::array();
  for (const Finding& finding : findings) {
    failed += finding.health == Health::kFail ? 1 : 0;
    if (invocation.json()) {
      json.push_back({{"check", finding.check},
                      {"health", HealthName(finding.health)},
                      {"found", finding.found},
                      {"advice", finding.advice}});
    } else {
      PrintFinding(invocation, finding);
    }
  }
  if (invocation.json()) invocation.PrintJson(json);
  if (failed == 0) return absl::OkStatus();
  return absl::InternalError(StrCat(failed, failed == 1 ? " check" : " checks", " failed"));
}

}  // namespace

const Verb kDoctor = {
    .name = "doctor",
    .summary = "check the machine and the store, and say what to do",
    .details =
        "Looks at the kernel, memory and cgroup limits, huge pages, limits of open files and "
        "locked memory, the clock, RDMA devices and MTU, the socket directory, the node, versions, "
        "the node's memory, its data port, and each of its peers: whether it answers, the lane to it "
        "and why that is no faster one. Each line is ok, warn (works, but) or fail; any fail makes the exit code 1.",
    .json = "an array of {check, health: ok|warn|fail, found, advice}",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
