#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "client/cli/doctor_checks.h"
#include "proto/layout/catalog_layout.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr uint64_t kFullPercent = 90;
constexpr uint64_t kHeldBackPercent = 25;

std::string ModeText(mode_t mode) {
  char text[8];
  std::snprintf(text, sizeof(text), "%04o", static_cast<unsigned>(mode & 07777));
  return text;
}

Finding CheckSocketDirectory(const std::string& directory) {
  Finding finding{Health::kOk, "socket directory", "", ""};
  struct stat status {};
  if (stat(directory.c_str(), &status) != 0) {
    return {Health::kFail, finding.check, StrCat(directory, ": ", strerror(errno)),
            "the node and this process see different file systems? share the socket directory"};
  }
  finding.found = StrCat(directory, ", mode ", ModeText(status.st_mode), ", owner ", status.st_uid);
  if ((status.st_mode & S_IWOTH) != 0 && (status.st_mode & S_ISVTX) == 0) {
    finding.health = Health::kWarn;
    finding.advice = StrCat("anybody may replace the sockets in it: chmod o-w ", directory);
  } else if (access(StrCat(directory, "/fd.sock").c_str(), R_OK | W_OK) != 0) {
    finding.health = Health::kFail;
    StrAppend(&finding.found, "; fd.sock: ", strerror(errno));
    finding.advice = "this user may not use the store: see penstockd --socket_mode";
  }
  return finding;
}

Finding CheckVersions(const v1::NodeInfoResponse& node) {
  Finding finding{Health::kOk, "versions",
                  StrCat("node ", node.version(), ", layout ", node.layout_version(),
                         "; this program ", PENSTOCK_VERSION, ", layout ", layout::kLayoutVersion),
                  ""};
  if (node.layout_version() != layout::kLayoutVersion) {
    finding.health = Health::kFail;
    finding.advice = "memory layouts differ: use a client and a node of the same version";
  } else if (node.version() != PENSTOCK_VERSION) {
    finding.health = Health::kWarn;
    finding.advice = "works, as the layouts agree; upgrade the older one";
  }
  return finding;
}

Finding CheckNodeClock(const v1::NodeInfoResponse& node) {
  const absl::Time started = absl::FromUnixNanos(static_cast<int64_t>(node.started_ns()));
  const absl::Duration up = absl::Now() - started;
  if (up < -absl::Seconds(1)) {
    return {Health::kWarn, "node's clock",
            StrCat("the node started ", absl::ToInt64Seconds(-up), " s in the future"),
            "the time of day was set back: times to live end late"};
  }
  return {Health::kOk, "node's clock", StrCat("up for ", absl::ToInt64Seconds(up), " s"), ""};
}

Finding CheckNodeMemory(const v1::DfResponse& df) {
  Finding finding{Health::kOk, "node's memory",
                  StrCat(FormatSize(df.block_bytes() + df.draft_bytes() + df.retired_bytes()),
                         " of ", FormatSize(df.memory_bytes()), " used, ",
                         FormatSize(df.retired_bytes()), " of it retired; pages: ", df.page_kind()),
                  ""};
  if (df.retired_bytes() * 100 > df.memory_bytes() * kHeldBackPercent) {
    finding.health = Health::kWarn;
    finding.advice = "much memory is deleted but still read: `penstock pins` shows by whom";
  } else if ((df.block_bytes() + df.draft_bytes()) * 100 > df.memory_bytes() * kFullPercent) {
    finding.health = Health::kWarn;
    finding.advice =
        "nearly full: delete, store with --cache, or start penstockd with more --memory";
  }
  return finding;
}

}  // namespace

std::vector<Finding> CheckStore(Invocation& invocation) {
  std::vector<Finding> findings;
  const auto node =
      invocation.Call<v1::NodeInfoResponse>(rpc::Method::kNodeInfo, v1::NodeInfoRequest());
  if (!node.ok()) {
    findings.push_back({Health::kFail, "node", std::string(node.status().message()),
                        "start one with `penstockd`, or give its --address"});
    return findings;
  }
  findings.push_back({Health::kOk, "node",
                      StrCat(node->node_uuid(), " answers, pid ", node->pid(), ", warden ",
                             node->warden_pid(), ", start ", node->generation()),
                      ""});
  findings.push_back(CheckSocketDirectory(node->socket_dir()));
  findings.push_back(CheckVersions(*node));
  findings.push_back(CheckNodeClock(*node));
  const auto df = invocation.Call<v1::DfResponse>(rpc::Method::kDf, v1::DfRequest());
  if (df.ok()) {
    findings.push_back(CheckNodeMemory(*df));
  } else {
    findings.push_back({Health::kFail, "node's memory", std::string(df.status().message()),
                        "the node answers some calls only: look at its log"});
  }
  for (Finding& finding : CheckLanes(invocation, *node)) findings.push_back(std::move(finding));
  return findings;
}

}  // namespace penstock::cli
