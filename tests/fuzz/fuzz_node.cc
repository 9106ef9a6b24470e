// What a hostile local client can send to a node: request blocks in its ring, messages on the fd socket, and control
// calls (the handlers that gRPC calls too). The first byte chooses which; a real store, ring server and control server
// run in this process, on an in-process warden.
//
// Found are crashes, sanitizer reports, and a node that no longer serves a well-behaved client.
#include <stdlib.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "server/control/control_server.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/unit/server/ring/raw_client.h"
#include "tests/unit/server/store/in_process_warden.h"

namespace penstock::server {
namespace {

constexpr uint64_t kMemory = uint64_t{64} << 20;

class Node {
 public:
  Node() {
    char directory[] = "/tmp/penstock-fuzz-XXXXXX";
    FUZZ_CHECK(mkdtemp(directory) != nullptr);
    path_ = std::string(directory) + "/fd.sock";
    context_ = NextNode(&memory_, 1);
    store_ = Store::Open(&context_, {.memory_bytes = kMemory, .max_sessions = 64, .max_drafts_per_session = 100}).value();
    listener_ = Listen(path_, 0600).value();
    service_ = std::make_unique<StoreService>(store_.get(), &recall_.emplace(store_.get()), NodeFacts{});
    rings_ = RingServer::Start(service_.get()).value();
    store_->OnChange([this](uint64_t name_hash) { rings_->Wake(name_hash); });
    changing_ = MutableMemory::Create(store_.get()).value();
    control_ = ControlServer::Start({.store = store_.get(), .rings = rings_.get(), .changing = changing_.get()}, listener_.get(), "unix:none").value();
  }

  // `bytes` as the memory of a request block: header and body, whatever they say.
  void RingBlock(const uint8_t* bytes, size_t size) {
    if (client_ == nullptr || Ended()) client_ = NewClient();
    layout::RequestBlock* block = client_->block();
    std::memset(static_cast<void*>(block), 0, 65536);
    const size_t used = std::min<size_t>(size, 60000);
    std::memcpy(static_cast<void*>(block), bytes, used);
    if (size > 0 && bytes[0] % 4 != 0) MakePlausible(block, used);
    block->state.store(static_cast<uint32_t>(layout::BlockState::kPending));
    client_->Submit();
    const absl::Time deadline = absl::Now() + absl::Seconds(8);
    while (block->state.load() != static_cast<uint32_t>(layout::BlockState::kDone) && !Ended()) {
      FUZZ_CHECK(absl::Now() < deadline);
    }
  }

  void FdMessage(const uint8_t* bytes, size_t size) {
    RawClient client(path_);
    if (size > 0 && bytes[0] % 2 == 0) FUZZ_CHECK(client.Open());
    std::string message(reinterpret_cast<const char*>(bytes), std::min<size_t>(size, 4000));
    if (message.size() >= sizeof(layout::FdHeader) && bytes[0] % 8 != 7) {  // past the first checks
      layout::FdHeader header = RawClient::Header(static_cast<layout::FdType>(message[4] % 40), 7);
      std::memcpy(message.data(), &header, sizeof(header));
      if (bytes[0] % 8 < 5) message.resize(SizeOf(header.type, message.size()));
    }
    client.SendBytes(message.data(), message.size());
  }

  void Call(const uint8_t* bytes, size_t size) {
    if (size == 0) return;
    if (caller_ == nullptr) caller_ = store_->OpenSession({.pid = 1}, std::move(SocketPair().value().first)).value();
    std::string response;
    const std::string_view message(reinterpret_cast<const char*>(bytes) + 1, size - 1);
    service_->Call(bytes[0] % 20, caller_.get(), message, 1 << 16, &response).IgnoreError();
    v1::WatchRequest watch;
    v1::WatchResponse events;
    if (watch.ParseFromArray(message.data(), static_cast<int>(message.size()))) service_->Watch(watch, &events);
    v1::WaitRequest wait;
    v1::WaitResponse found;
    if (wait.ParseFromArray(message.data(), static_cast<int>(message.size()))) service_->Wait(wait, &found);
  }

  // Whoever behaves is still served.
  void CheckAlive() {
    std::unique_ptr<RawClient> good = NewClient();
    layout::CreateRequest create{.nbytes = 16, .if_version = layout::kAnyVersion, .data_offset = 512, .name_bytes = 4,
                                 .dtype = static_cast<uint8_t>(DType::kU8), .rank = 1, .flags = layout::kRecordKeep, .replicas = 1};
    const int64_t dim = 16;
    std::string body(reinterpret_cast<const char*>(&create), sizeof(create));
    body.append(reinterpret_cast<const char*>(&dim), 8).append("good");
    layout::RequestBlock* block = good->Fill(layout::RingOp::kPut, body, 1024);
    good->Submit();
    FUZZ_CHECK(good->Await(block) == 0);
  }

 private:
  std::unique_ptr<RawClient> NewClient() {
    auto client = std::make_unique<RawClient>(path_);
    FUZZ_CHECK(client->Open());
    return client;
  }
  bool Ended() {
    const std::shared_ptr<Session> session = store_->FindSession(client_->welcome.session_id);
    return session == nullptr || session->cut_off.load();
  }

  // Of messages that are refused at once when they have another size.
  static size_t SizeOf(layout::FdType type, size_t otherwise) {
    switch (type) {
      case layout::FdType::kOpenMutable:
      case layout::FdType::kDeleteMutable: return sizeof(layout::MutableRequest);
      case layout::FdType::kMutableMapped:
      case layout::FdType::kMutableClosed: return sizeof(layout::MutableMessage);
      default: return otherwise;
    }
  }

  // Sizes that add up, so that the body reaches the parsers.
  static void MakePlausible(layout::RequestBlock* block, size_t used) {
    const uint32_t body = used > sizeof(*block) ? static_cast<uint32_t>(used - sizeof(*block)) : 0;
    block->op = block->op % 9;
    block->request_bytes = body;
    block->response_offset = static_cast<uint32_t>((sizeof(*block) + body + 7) / 8 * 8);
    block->block_bytes = block->response_offset + 1024;
  }

  WardenMemory memory_;
  warden::NodeContext context_;
  std::string path_;
  UniqueFd listener_;
  std::unique_ptr<Store> store_;
  std::optional<LeaseRecall> recall_;
  std::unique_ptr<StoreService> service_;
  std::unique_ptr<RingServer> rings_;
  std::unique_ptr<MutableMemory> changing_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<RawClient> client_;
  std::shared_ptr<Session> caller_;
};

}  // namespace
}  // namespace penstock::server

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static penstock::server::Node* node = new penstock::server::Node;  // for the life of the process
  static uint64_t runs = 0;
  if (size < 1) return 0;
  switch (data[0] % 3) {
    case 0: node->RingBlock(data + 1, size - 1); break;
    case 1: node->FdMessage(data + 1, size - 1); break;
    default: node->Call(data + 1, size - 1); break;
  }
  if (++runs % 256 == 0) node->CheckAlive();
  return 0;
}
