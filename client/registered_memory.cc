// RegisteredMemory, and what makes it.
#include <penstock/client.h>

#include "client/connection.h"
#include "client/session/own_rdma.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock {

using client::OwnRdma;

std::vector<std::string> RegisteredMemory::lanes() const {
  return registration_ == nullptr ? std::vector<std::string>() : std::vector<std::string>{"rdma"};
}

void RegisteredMemory::Release() {
  registration_ = nullptr;
  memory_ = {};
}

absl::StatusOr<RegisteredMemory> Client::Register(absl::Span<char> memory) {
  if (memory.empty()) return absl::InvalidArgumentError("register: memory has no bytes");
  RegisteredMemory registered;
  registered.memory_ = memory;
  const absl::StatusOr<std::string> answer = Call(static_cast<uint32_t>(rpc::Method::kNodeInfo), "");
  if (!answer.ok()) return answer.status();
  v1::NodeInfoResponse node;
  if (!node.ParseFromString(*answer)) return absl::InternalError("the node's answer to NodeInfo cannot be read");
  if (!node.reads_by_rdma() || !OwnRdma::Get().Reader("").ok()) return registered;
  absl::StatusOr<std::shared_ptr<const void>> registration = OwnRdma::Get().Register(memory);
  if (!registration.ok()) {
    return absl::Status(registration.status().code(), StrCat("register: ", memory.size(), " bytes: ", registration.status().message(), " (ulimit -l?)"));
  }
  registered.registration_ = *std::move(registration);
  return registered;
}

}  // namespace penstock
