#include "client/cli/bench_transfer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "client/cli/bench_loop.h"
#include "client/cli/returning.h"
#include "client/cli/table.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{4} << 30;
constexpr uint32_t kMaxRounds = 10'000;
constexpr absl::Duration kPatience = absl::Minutes(5);  // one transfer may take long on a slow link

struct Ends {
  std::string peer;  // its address
  bool write = false;  // to the peer
};

// Whether this is a way to say the node: an address of its, its id, or as many first digits of it as a person types.
bool Means(const std::string& text, const std::string& uuid, std::initializer_list<const std::string*> addresses) {
  if (text.size() >= 4 && uuid.starts_with(text)) return true;
  return std::any_of(addresses.begin(), addresses.end(), [&](const std::string* address) { return *address == text; });
}

std::string Known(const v1::NodeInfoResponse& node) {
  std::string known = StrCat("this node is ", node.tcp_address().empty() ? node.socket_dir() : node.tcp_address());
  known += node.peers().empty() ? ", and has no --peers" : ", its peers are ";
  for (int i = 0; i < node.peers_size(); ++i) known += StrCat(i == 0 ? "" : ", ", node.peers(i).address());
  return known;
}

// The peer that is meant; nothing: this node.
absl::StatusOr<const v1::PeerInfo*> Resolve(const Args& args, std::string_view flag, const v1::NodeInfoResponse& node) {
  if (!args.Has(flag)) return nullptr;
  const std::string& text = args.Get(flag);
  for (const v1::PeerInfo& peer : node.peers()) {
    if (Means(text, peer.node_uuid(), {&peer.address()})) return &peer;
  }
  if (text == args.Get("address") || Means(text, node.node_uuid(), {&node.tcp_address(), &node.socket_dir()})) return nullptr;
  return absl::InvalidArgumentError(StrCat("--", flag, ": no node '", text, "' is known here: ", Known(node),
                                           "; write the address or the id of one of the peers, and leave out the flag for this node"));
}

absl::StatusOr<Ends> EndsOf(const Args& args, const v1::NodeInfoResponse& node) {
  CLI_ASSIGN_OR_RETURN(const v1::PeerInfo* const from, Resolve(args, "from", node));
  CLI_ASSIGN_OR_RETURN(const v1::PeerInfo* const to, Resolve(args, "to", node));
  if ((from == nullptr) == (to == nullptr)) {
    return absl::InvalidArgumentError(StrCat("--from and --to: one of them must be the node of --address, and one another node: ", Known(node)));
  }
  return Ends{.peer = (from != nullptr ? from : to)->address(), .write = to != nullptr};
}

struct Row {
  uint64_t bytes = 0;
  std::vector<double> seconds;  // sorted
  std::string lane;
  std::string why;
  double At(double fraction) const { return seconds[static_cast<size_t>(static_cast<double>(seconds.size() - 1) * fraction + 0.5)]; }
  double Rate() const { return static_cast<double>(bytes) / At(0.5); }
};

absl::StatusOr<Row> Measure(Invocation& invocation, const Ends& ends, uint64_t bytes, absl::Duration seconds) {
  v1::MeasurePeerRequest request;
  request.set_peer(ends.peer);
  request.set_write(ends.write);
  request.set_bytes(bytes);
  request.set_rounds(kMaxRounds);
  request.set_limit_ns(static_cast<uint64_t>(absl::ToInt64Nanoseconds(seconds)));
  CLI_ASSIGN_OR_RETURN(const v1::MeasurePeerResponse response,
                       invocation.Call<v1::MeasurePeerResponse>(rpc::Method::kMeasurePeer, request));
  Row row{.bytes = bytes, .seconds = {}, .lane = response.lane(), .why = response.why()};
  for (const uint64_t ns : response.round_ns()) row.seconds.push_back(static_cast<double>(std::max<uint64_t>(ns, 1)) / 1e9);
  if (row.seconds.empty()) return absl::InternalError("the node measured nothing: are versions mixed?");
  std::sort(row.seconds.begin(), row.seconds.end());
  return row;
}

void PrintRows(Invocation& invocation, const Ends& ends, const std::vector<Row>& rows) {
  invocation.Print(StrCat(ends.write ? "from this node to " : "to this node from ", ends.peer, ": ", ends.write ? "writes" : "reads", " by ",
                          rows.back().lane, rows.back().why.empty() ? "" : StrCat(" (", rows.back().why, ")"), "\n"));
  using Align = Table::Align;
  Table table({{"SIZE", Align::kRight}, {"ROUNDS", Align::kRight}, {"MEDIAN", Align::kRight}, {"P99", Align::kRight}, {"RATE", Align::kRight}});
  for (const Row& row : rows) {
    table.Add({FormatSize(row.bytes), StrCat(row.seconds.size()), TimeText(row.At(0.5) * 1e9), TimeText(row.At(0.99) * 1e9),
               StrCat(FormatSize(static_cast<uint64_t>(row.Rate())), "/s")});
  }
  table.Print();
}

}  // namespace

absl::Status RunTransferBench(Invocation& invocation, const std::vector<uint64_t>& sizes, absl::Duration seconds) {
  for (const uint64_t size : sizes) {
    if (size < 1 || size > kMaxBytes) {
      return absl::InvalidArgumentError(StrCat("--size: ", FormatSize(size), " is not allowed between nodes; write 1B to ", FormatSize(kMaxBytes)));
    }
  }
  invocation.BePatient(kPatience);
  CLI_ASSIGN_OR_RETURN(const v1::NodeInfoResponse node,
                       invocation.Call<v1::NodeInfoResponse>(rpc::Method::kNodeInfo, v1::NodeInfoRequest()));
  CLI_ASSIGN_OR_RETURN(const Ends ends, EndsOf(invocation.args(), node));
  std::vector<Row> rows;
  for (const uint64_t size : sizes) {
    CLI_ASSIGN_OR_RETURN(Row row, Measure(invocation, ends, size, seconds));
    rows.push_back(std::move(row));
  }
  if (!invocation.json()) {
    PrintRows(invocation, ends, rows);
    return absl::OkStatus();
  }
  Json results = Json::array();
  for (const Row& row : rows) {
    results.push_back({{"tensor_bytes", row.bytes}, {"rounds", row.seconds.size()}, {"p50_ns", row.At(0.5) * 1e9},
                       {"p99_ns", row.At(0.99) * 1e9}, {"bytes_per_second", row.Rate()}, {"lane", row.lane}});
  }
  invocation.PrintJson({{"bench", ends.write ? "write" : "read"}, {"peer", ends.peer}, {"why", rows.back().why}, {"results", results}});
  return absl::OkStatus();
}

}  // namespace penstock::cli
