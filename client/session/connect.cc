// Connecting: from an address to an open session.
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "client/session/address.h"
#include "client/session/remote_address.h"
#include "client/session/session.h"
#include "proto/strcat.h"
#include "transport/fd_socket/fd_socket.h"

namespace penstock::client {
namespace {

using layout::FdType;
using layout::HelloMessage;
using layout::WelcomeMessage;

// Before the channel's thread runs: one message out, one in. Notices that come first are hints that
// may be missed.
absl::StatusOr<FdReply> SayHello(int socket, const std::string& label, uint32_t flags, const Deadline& deadline) {
  HelloMessage hello{};
  hello.header = {layout::kFdMagic, FdType::kHello, layout::kLayoutVersion, 1};
  hello.pid = static_cast<uint32_t>(getpid());
  hello.flags = flags;
  memcpy(hello.label, label.data(), std::min(label.size(), sizeof(hello.label) - 1));
  absl::Status sent = SendMessage(
      socket, absl::MakeConstSpan(reinterpret_cast<const char*>(&hello), sizeof(hello)), {},
      deadline.Left());
  if (!sent.ok()) return sent;
  while (true) {
    FdReply reply;
    absl::StatusOr<ReceivedMessage> received =
        ReceiveMessage(socket, absl::MakeSpan(reply.bytes), deadline.Left());
    if (!received.ok()) return received.status();
    if (received->end_of_file) return absl::UnavailableError("the node closed the connection");
    reply.size = received->size;
    reply.fds = std::move(received->fds);
    if (reply.size < sizeof(layout::FdHeader) || reply.header().magic != layout::kFdMagic) {
      return absl::FailedPreconditionError("what listens there does not speak Penstock's protocol");
    }
    if (reply.header().number != 0) return reply;
  }
}

// Of a tenant whose sockets are not there: is there none of that name?
absl::Status OfTenant(const absl::Status& status, const Address& address) {
  if (address.tenant.empty() || (!absl::IsUnavailable(status) && !absl::IsNotFound(status))) return status;
  const std::string above = address.text.substr(0, address.text.size() - address.tenant.size() - 1);
  const std::vector<std::string> there = TenantsIn(above);
  if (std::find(there.begin(), there.end(), address.tenant) != there.end()) return status;
  std::string names;
  for (const std::string& name : there) StrAppend(&names, names.empty() ? "" : ", ", name);
  return absl::UnavailableError(StrCat("there is no tenant \"", address.tenant, "\" in ", above, names.empty() ? std::string("; nor any other") : StrCat("; there are: ", names)));
}

absl::Status Annotate(const absl::Status& status, const std::string& where) {
  return absl::Status(status.code(), StrCat("connect to ", where, ": ", status.message()));
}

}  // namespace

absl::StatusOr<Session*> Session::Open(const ClientOptions& options, const Deadline& deadline) {
  const absl::StatusOr<std::vector<Address>> candidates = ResolveAddresses(options.address, options.tenant);
  if (!candidates.ok()) return candidates.status();
  const absl::StatusOr<TlsFiles> tls = ResolveTlsFiles(options.tls);
  if (!tls.ok()) return tls.status();
  absl::Status first_error;
  std::string tried;
  std::vector<std::string> far;  // nodes of stores that answer and have none on this host
  for (const Address& candidate : *candidates) {
    std::string dir = candidate.text;
    absl::Status status;
    std::string expected_uuid;
    std::vector<std::string> peers;
    if (!candidate.is_socket_dir) {
      absl::StatusOr<RemoteNode> node = AskRemoteNode(candidate.text, *tls, deadline);
      if (node.ok()) {
        dir = node->socket_dir;
        expected_uuid = node->node_uuid;
        peers = node->peers;
      } else {
        status = node.status();
      }
    }
    if (status.ok()) {
      auto* session = new Session(dir, options);
      status = session->Connect(deadline);
      if (status.ok() && (expected_uuid.empty() ||
                          expected_uuid == session->catalog_.node_uuid())) {
        return session;
      }
      session->Unref();
      if (!expected_uuid.empty() && (status.ok() || absl::IsNotFound(status) || absl::IsUnavailable(status))) {
        peers.insert(peers.begin(), candidate.text);
        for (const std::string& one : peers) {
          if (std::find(far.begin(), far.end(), one) == far.end()) far.push_back(one);
        }
        continue;
      }
    }
    status = OfTenant(status, candidate);
    StrAppend(&tried, tried.empty() ? "" : ", ", candidate.text);
    // The error that says most: any answer beats "nobody listens there".
    if (first_error.ok() || absl::IsUnavailable(first_error) || absl::IsNotFound(first_error)) {
      first_error = Annotate(status, candidate.text);
    }
  }
  if (!far.empty()) {
    std::string all;
    for (const std::string& one : far) StrAppend(&all, all.empty() ? "" : ",", one);
    return absl::UnavailableError(StrCat("node ", all, " is on another host: its sockets are not reachable here; a node of this host with --peers=", all,
                                         " --new_names=peers would be the way (Python starts one by itself)"));
  }
  if (candidates->size() > 1 &&
      (absl::IsUnavailable(first_error) || absl::IsNotFound(first_error))) {
    return absl::UnavailableError(StrCat("no store answers at ", tried,
                                         "; start penstockd, or set PENSTOCK_ADDRESS"));
  }
  if (absl::IsNotFound(first_error)) return absl::UnavailableError(first_error.message());
  return first_error;
}

absl::Status Session::Connect(const Deadline& deadline) {
  absl::StatusOr<UniqueFd> socket = penstock::Connect(StrCat(address_, "/fd.sock"));
  if (!socket.ok()) return socket.status();
  unread_socket_ = *std::move(socket);
  absl::StatusOr<FdReply> welcome = SayHello(unread_socket_.get(), label_, require_rdma_ ? uint32_t{layout::kHelloRequireRdma} : 0, deadline);
  if (!welcome.ok()) return welcome.status();
  if (absl::Status s = TakeWelcome(*std::move(welcome), /*first=*/true); !s.ok()) return s;
  if (absl::Status s = channel_.Start(); !s.ok()) return s;
  return catalog_.Refresh(deadline);
}

// Descriptors: catalog header, ring, pin chunk 0, eventfd.
absl::Status Session::TakeWelcome(FdReply reply, bool first) {
  const auto welcome = reply.As<WelcomeMessage>(FdType::kWelcome, 4);
  if (!welcome.ok()) return welcome.status();
  if (first) {
    id_.store((*welcome)->session_id);
    absl::StatusOr<Mapping> header =
        Mapping::MapReadOnly(reply.fds[0].get(), (*welcome)->header_bytes);
    if (!header.ok()) return header.status();
    if (absl::Status s = catalog_.Open(*std::move(header)); !s.ok()) return s;
    header_fd_ = std::move(reply.fds[0]);
    absl::StatusOr<Mapping> pins =
        Mapping::MapWritable(reply.fds[2].get(), layout::kPinChunkBytes);
    if (!pins.ok()) return pins.status();
    pins_.AddFirstChunk(*std::move(pins));
  }
  absl::StatusOr<Mapping> ring = Mapping::MapWritable(reply.fds[1].get(), (*welcome)->ring_bytes);
  if (!ring.ok()) return ring.status();
  const std::atomic<uint64_t>* generation = &catalog_.header().node_generation;
  if (absl::Status s = ring_.Attach(*std::move(ring), std::move(reply.fds[3]), generation);
      !s.ok()) {
    return s;
  }
  if (first) channel_.Open(std::move(unread_socket_), generation);
  return absl::OkStatus();
}

}  // namespace penstock::client
