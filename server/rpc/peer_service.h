// PeerService: the calls of peer.proto, one handler each.
//
// Decodes, calls, encodes; decides nothing.
//
// Threading:  any thread; AwaitRecalls blocks its own.
// Ownership:  the store and the remote sessions must outlive it.
// Errors:     a call's own; errors of single items are in their results.
// Limits:     StoreService::kMaxBatch items a call.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "peer.pb.h"
#include "server/remote/rdma_memory.h"
#include "server/remote/remote_sessions.h"
#include "server/remote/ucx_tcp.h"
#include "server/store/store.h"

namespace penstock::server {

class PeerService {
 public:
  struct Lanes {
    std::string data_address;  // of the stream lane
    bool tls = false;          // what that speaks
    RdmaMemory* rdma = nullptr;  // these two: null without
    const UcxTcp* ucx_tcp = nullptr;
  };
  PeerService(Store* store, RemoteSessions* sessions, std::string version, Lanes lanes)
      : store_(store), sessions_(sessions), version_(std::move(version)), lanes_(std::move(lanes)) {}

  // `token`: as the call's metadata has it.
  absl::Status OpenSession(const v1::OpenSessionRequest& request, v1::OpenSessionResponse* response);
  absl::Status Renew(std::string_view token, const v1::RenewRequest& request, v1::RenewResponse* response);
  absl::Status CloseSession(std::string_view token, const v1::CloseSessionRequest& request, v1::CloseSessionResponse* response);
  absl::Status Locate(std::string_view token, const v1::LocateRequest& request, v1::LocateResponse* response);
  absl::Status AwaitRecalls(std::string_view token, const v1::AwaitRecallsRequest& request, v1::AwaitRecallsResponse* response);
  absl::Status Release(std::string_view token, const v1::ReleaseRequest& request, v1::ReleaseResponse* response);
  absl::Status ReserveDrafts(std::string_view token, const v1::ReserveDraftsRequest& request, v1::ReserveDraftsResponse* response);
  absl::Status PublishDrafts(std::string_view token, const v1::PublishDraftsRequest& request, v1::PublishDraftsResponse* response);
  absl::Status OpenChannels(std::string_view token, const v1::OpenChannelsRequest& request, v1::OpenChannelsResponse* response);
  absl::Status JoinChain(std::string_view token, const v1::JoinChainRequest& request, v1::JoinChainResponse* response);
  absl::Status LocateCopy(std::string_view token, const v1::LocateCopyRequest& request, v1::LocateCopyResponse* response);

 private:
  void ShareByRdma(const LaneToken& token, const RemoteSessions::Reserved& reserved, uint64_t bytes, v1::ReserveResult* result);

  Store* const store_;
  RemoteSessions* const sessions_;
  const std::string version_;
  const Lanes lanes_;
};

}  // namespace penstock::server
