// penstock version: of this program, and of the node if one answers.
#include "client/cli/invocation.h"
#include "client/cli/verbs/verbs.h"
#include "proto/layout/catalog_layout.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

absl::Status Run(Invocation& invocation) {
  const auto node =
      invocation.Call<v1::NodeInfoResponse>(rpc::Method::kNodeInfo, v1::NodeInfoRequest());
  if (invocation.json()) {
    Json json = {{"version", PENSTOCK_VERSION}, {"layout_version", layout::kLayoutVersion}};
    json["node"] = nullptr;
    if (node.ok()) {
      json["node"] = {{"version", node->version()}, {"layout_version", node->layout_version()}};
    }
    invocation.PrintJson(json);
    return absl::OkStatus();
  }
  invocation.Print(
      StrCat("penstock ", PENSTOCK_VERSION, " (layout ", layout::kLayoutVersion, ")\n"));
  if (node.ok()) {
    invocation.Print(StrCat("node     ", node->version(), " (layout ", node->layout_version(),
                            ") at ", node->socket_dir(), "\n"));
  } else {
    invocation.Print(StrCat("node     none: ", std::string(node.status().message()), "\n"));
  }
  return absl::OkStatus();
}

}  // namespace

const Verb kVersion = {
    .name = "version",
    .summary = "show this program's version, and the node's",
    .details =
        "Shows the versions of this program and of the node that answers, and of the layout of "
        "shared memory, which must be the same in both. No node is no error.",
    .json = "{version, layout_version, node: null or {version, layout_version}}",
    .run = Run,
};

}  // namespace penstock::cli
