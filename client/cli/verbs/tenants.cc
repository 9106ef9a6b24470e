// penstock tenants: whose stores there are on this host.
#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/table.h"
#include "client/cli/verbs/verbs.h"
#include "client/session/address.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr Example kExamples[] = {
    {"penstock tenants", "those of the default socket directory"},
    {"penstock --tenant team-a df", "more of one of them: every verb takes --tenant"},
};

struct Seen {
  std::string name, directory;
  absl::Status status;  // why `df` is not known
  v1::DfResponse df;
};

absl::Status Ask(const std::string& directory, absl::Duration timeout, v1::DfResponse* df) {
  ClientOptions options;
  options.address = directory;
  options.timeout = timeout;
  options.label = "penstock tenants";
  CLI_ASSIGN_OR_RETURN(const std::unique_ptr<Client> client, Client::Connect(options));
  CLI_ASSIGN_OR_RETURN(const std::string bytes, client->Call(static_cast<uint32_t>(rpc::Method::kDf), v1::DfRequest().SerializeAsString()));
  return df->ParseFromString(bytes) ? absl::OkStatus() : absl::InternalError("the node's answer cannot be read: are versions mixed?");
}

// Those of the first directory that has any.
absl::StatusOr<std::vector<Seen>> Look(const Invocation& invocation) {
  CLI_ASSIGN_OR_RETURN(const std::vector<client::Address> addresses, client::ResolveAddresses(invocation.args().Get("address")));
  CLI_ASSIGN_OR_RETURN(const std::optional<absl::Duration> timeout, invocation.args().Duration("timeout"));
  std::vector<Seen> seen;
  std::string looked;
  for (const client::Address& address : addresses) {
    const std::string above = address.tenant.empty() ? address.text : address.text.substr(0, address.text.size() - address.tenant.size() - 1);
    for (const std::string& name : address.is_socket_dir ? client::TenantsIn(above) : std::vector<std::string>()) {
      if (!invocation.args().Get("tenant").empty() && invocation.args().Get("tenant") != name) continue;
      Seen one{.name = name, .directory = StrCat(above, "/", name), .status = {}, .df = {}};
      one.status = Ask(one.directory, *timeout, &one.df);
      seen.push_back(std::move(one));
    }
    if (!seen.empty()) return seen;
    StrAppend(&looked, looked.empty() ? "" : ", ", above);
  }
  return absl::NotFoundError(StrCat("tenants: none in ", looked, "; penstockd --tenants=FILE starts them"));
}

absl::Status Run(Invocation& invocation) {
  CLI_ASSIGN_OR_RETURN(const std::vector<Seen> seen, Look(invocation));
  Json json = Json::array();
  Table table({{"TENANT"}, {"STATE"}, {"MEMORY", Table::Align::kRight}, {"USED", Table::Align::kRight}, {"TENSORS", Table::Align::kRight}, {"SESSIONS", Table::Align::kRight}, {"SOCKETS"}});
  for (const Seen& one : seen) {
    const std::string state = one.status.ok() ? "up" : absl::IsPermissionDenied(one.status) ? "not yours" : absl::IsUnavailable(one.status) ? "down" : std::string(one.status.message());
    Json row{{"tenant", one.name}, {"state", state}, {"socket_dir", one.directory}};
    if (one.status.ok()) row["df"] = MessageJson(one.df);
    json.push_back(std::move(row));
    const auto known = [&](std::string text) { return one.status.ok() ? text : std::string("-"); };
    table.Add({one.name, state, known(FormatSize(one.df.memory_bytes())), known(FormatSize(one.df.tensor_bytes())), known(StrCat(one.df.tensors())),
               known(StrCat(one.df.sessions())), one.directory});
  }
  if (invocation.json()) {
    invocation.PrintJson(json);
  } else {
    table.Print();
  }
  return absl::OkStatus();
}

}  // namespace

const Verb kTenants{
    .name = "tenants",
    .summary = "show whose stores there are on this host",
    .details =
        "Shows the tenants of penstockd --tenants that have a folder in the socket directory, and how full their stores are, as far as the "
        "caller may know: a tenant's folder lets in its user and group only.",
    .json = "an array of objects: tenant, state (\"up\", \"down\", \"not yours\", or an error), socket_dir, and df where the caller may use it",
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
