// What other hosts send a node: session, read and write messages of peer.proto, with tokens that are known, forged or none.
//
// One input is a row of calls: a byte for the method, one for the token, two for the length, then the message.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/rpc/peer_service.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/unit/server/store/in_process_warden.h"
#include "transport/fd_socket/fd_socket.h"

namespace penstock::server {
namespace {

constexpr uint64_t kMemory = uint64_t{64} << 20;

class Home {
 public:
  Home() {
    context_ = NextNode(&memory_, 1);
    store_ = Store::Open(&context_, {.memory_bytes = kMemory, .max_drafts_per_session = 8192}).value();
    recall_.emplace(store_.get());
    changing_ = MutableMemory::Create(store_.get()).value();
    MakeChannel();
    sessions_.emplace(store_.get(), &*recall_, 64, changing_.get());
    copies_.emplace(changing_->bell_fd());
    sessions_->ServeGrowing(&*copies_);
    MakeGrowing();
    service_.emplace(store_.get(), &*sessions_, "fuzz", PeerService::Lanes{.data_address = "127.0.0.1:1"});
  }

  void Begin() {
    v1::OpenSessionResponse response;
    FUZZ_CHECK(service_->OpenSession({}, &response).ok());
    token_ = response.token();
  }

  void Call(uint8_t method, uint8_t whose, std::string_view message) {
    const std::string forged(16, static_cast<char>(whose));
    if (method >= 240) return Follow(whose, message);
    if (method >= 232) return Chain(whose, message);
    const std::string_view token = whose < 200 ? std::string_view(token_) : whose < 230 ? std::string_view(forged) : message.substr(0, whose % 20);
    switch (method % 8) {
      case 0: Send<v1::RenewRequest, v1::RenewResponse>(token, message, &PeerService::Renew); break;
      case 1: {  // a lease would make changes of the name wait for an answer that nobody gives here
        v1::LocateRequest request;
        if (!request.ParseFromArray(message.data(), static_cast<int>(message.size()))) break;
        for (v1::LocateItem& item : *request.mutable_items()) item.set_lease(false);
        v1::LocateResponse response;
        (void)service_->Locate(token, request, &response);
        break;
      }
      case 2: Send<v1::ReleaseRequest, v1::ReleaseResponse>(token, message, &PeerService::Release); break;
      case 3: Send<v1::ReserveDraftsRequest, v1::ReserveDraftsResponse>(token, message, &PeerService::ReserveDrafts); break;
      case 4: Send<v1::PublishDraftsRequest, v1::PublishDraftsResponse>(token, message, &PeerService::PublishDrafts); break;
      case 5: Use(token, message, TransferKind::kRead); break;
      case 6: Use(token, message, TransferKind::kWrite); break;
      default: {
        v1::OpenSessionRequest request;
        v1::OpenSessionResponse response;
        if (!request.ParseFromArray(message.data(), static_cast<int>(message.size()))) break;
        if (service_->OpenSession(request, &response).ok()) Close(response.token());
      }
    }
  }

  // Nothing stays when its sessions are over, but what was published.
  void End() {
    Close(token_);
    FUZZ_CHECK(sessions_->count() == 0);
    v1::DfResponse df;
    store_->Df(&df);
    FUZZ_CHECK(df.drafts() == 1 && df.pins() == 1);  // the copy that grows
    FUZZ_CHECK(df.channels() == 1 && df.channel_bytes() == channel_bytes_);
    std::vector<std::string> leased;
    FUZZ_CHECK(store_->DeletePrefix("", &leased).ok() && leased.empty());
  }

 private:
  template <class Request, class Response>
  void Send(std::string_view token, std::string_view message, absl::Status (PeerService::*method)(std::string_view, const Request&, Response*)) {
    Request request;
    Response response;
    if (request.ParseFromArray(message.data(), static_cast<int>(message.size()))) (void)((*service_).*method)(token, request, &response);
  }

  // As the data port asks, and moves a byte at either end.
  void Use(std::string_view token, std::string_view message, TransferKind kind) {
    LaneToken bytes{};
    uint64_t grant = 0;
    if (token.size() != bytes.size() || message.empty()) return;
    std::memcpy(bytes.data(), token.data(), bytes.size());
    std::memcpy(&grant, message.data(), std::min(message.size(), sizeof(grant)));
    const absl::StatusOr<GrantedBlock> block = sessions_->Use(bytes, grant % 300, kind);
    if (!block.ok() || block->bytes == 0) return;
    if (block->growing != nullptr) (void)block->growing->Ready(block->bytes - 1);
    if (kind == TransferKind::kRead) {
      seen_ = static_cast<char>(block->data[0] + block->data[block->bytes - 1]);
    } else {
      block->data[0] = block->data[block->bytes - 1] = message[0];
      if (block->wrote) block->wrote(ByteRuns::Whole(block->bytes), 0, block->bytes);
    }
  }

  // Chains of fetches: with what is sent, or with grants and copies that may be there.
  void Chain(uint8_t whose, std::string_view message) {
    const std::string forged(16, static_cast<char>(whose));
    const std::string_view token = whose < 200 ? std::string_view(token_) : forged;
    switch (whose % 4) {
      case 0: return Send<v1::JoinChainRequest, v1::JoinChainResponse>(token, message, &PeerService::JoinChain);
      case 1: return Send<v1::LocateCopyRequest, v1::LocateCopyResponse>(token, message, &PeerService::LocateCopy);
      case 2: {
        v1::JoinChainRequest request;
        v1::JoinChainResponse response;
        request.set_grant(message.empty() ? 0 : static_cast<uint8_t>(message[0]));
        request.set_node_id(forged);
        (void)service_->JoinChain(token, request, &response);
        break;
      }
      default: {
        v1::LocateCopyRequest request;
        v1::LocateCopyResponse response;
        request.set_name("g");
        request.set_version(1 + message.size() % 2);
        request.set_created_ns(7);
        (void)service_->LocateCopy(token, request, &response);
        if (!message.empty()) growing_->copy()->Arrived(0, static_cast<uint8_t>(message[0]));
      }
    }
  }

  // A copy "g" of which some bytes come, which stays.
  void MakeGrowing() {
    growing_writer_.emplace(store_.get(), "fetch");
    const CreateSpec spec{.name = "g", .dtype = DType::kU8, .shape = Shape({1000}), .nbytes = 1000, .version = 1, .keep = false, .fetched = true, .created_ns = 7};
    const Placed placed = growing_writer_->Reserve(spec, absl::Seconds(1)).value();
    growing_.emplace(copies_->Begin({"g", 1, 7}, growing_writer_->Hold(placed).value()));
  }

  // A channel "c" with two steps, which stays.
  void MakeChannel() {
    auto pair = SocketPair().value();
    writer_peer_ = std::move(pair.second);
    writer_ = store_->OpenSession({.pid = 1}, std::move(pair.first)).value();
    const MutableSpec spec{.kind = layout::MutableKind::kChannel, .create = true, .exclusive = false, .name = "c", .nbytes = 100, .slots = 2,
                           .dtype = DType::kU8, .shape = Shape({100})};
    const MutableMemory::Opened opened = changing_->Open(writer_->id, 1, spec).value();
    FUZZ_CHECK(changing_->Mapped(writer_->id, opened.reply.segment, 1).ok());
    channel_bytes_ = opened.reply.bytes;
  }

  // Opens channels, or asks for their steps as the data port does.
  void Follow(uint8_t whose, std::string_view message) {
    const std::string forged(16, static_cast<char>(whose));
    const std::string_view token = whose < 200 ? std::string_view(token_) : forged;
    if (whose % 2 == 0) return Send<v1::OpenChannelsRequest, v1::OpenChannelsResponse>(token, message, &PeerService::OpenChannels);
    if (whose % 4 == 1) {
      v1::OpenChannelsRequest request;
      v1::OpenChannelsResponse response;
      request.add_names("c");
      (void)service_->OpenChannels(token, request, &response);
    }
    LaneToken bytes{};
    uint64_t numbers[2] = {};
    std::memcpy(bytes.data(), token.data(), bytes.size());
    std::memcpy(numbers, message.data(), std::min(message.size(), sizeof(numbers)));
    const absl::StatusOr<std::shared_ptr<StepSource>> source = sessions_->Follow(bytes, numbers[0] % 300);
    if (!source.ok()) return;
    const StepSource::Next next = (*source)->After(numbers[1]);
    if (next.state == StepSource::State::kStep) (*source)->copy()[0] = (*source)->data(next.seq)[(*source)->nbytes() - 1];
  }

  void Close(std::string_view token) {
    v1::CloseSessionResponse response;
    (void)service_->CloseSession(token, {}, &response);
  }

  WardenMemory memory_;
  warden::NodeContext context_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<MutableMemory> changing_;
  UniqueFd writer_peer_;
  std::shared_ptr<Session> writer_;
  uint64_t channel_bytes_ = 0;
  std::optional<LeaseRecall> recall_;
  std::optional<GrowingCopies> copies_;
  std::optional<NodeSession> growing_writer_;
  std::optional<GrowingCopies::Entry> growing_;
  std::optional<RemoteSessions> sessions_;
  std::optional<PeerService> service_;
  std::string token_;
  volatile char seen_ = 0;
};

}  // namespace
}  // namespace penstock::server

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static penstock::server::Home* home = new penstock::server::Home;  // for the life of the process
  home->Begin();
  while (size >= 4) {
    const size_t length = std::min<size_t>(data[2] | (data[3] << 8), size - 4);
    home->Call(data[0], data[1], {reinterpret_cast<const char*>(data) + 4, length});
    data += 4 + length;
    size -= 4 + length;
  }
  home->End();
  return 0;
}
