// What a hostile local client may do to its own ring, pins and socket harms only itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "proto/rpc_methods.h"
#include "store.pb.h"
#include "tests/unit/server/ring/raw_client.h"
#include "tests/unit/server/store/serving_fixture.h"

namespace penstock::server {
namespace {

using ::testing::HasSubstr;

class HostileClientTest : public ServingTest {
 protected:
  std::unique_ptr<RawClient> Client() {
    auto client = std::make_unique<RawClient>(socket_path());
    EXPECT_TRUE(client->Open());
    return client;
  }
  static std::string PutBody(layout::CreateRequest create, std::string_view name) {
    create.name_bytes = static_cast<uint16_t>(name.size());
    const int64_t dim = static_cast<int64_t>(create.nbytes);
    create.rank = 1;
    std::string body(reinterpret_cast<const char*>(&create), sizeof(create));
    body.append(reinterpret_cast<const char*>(&dim), 8).append(name);
    return body;
  }
  static layout::CreateRequest GoodCreate() {
    return {.nbytes = 16, .version = 0, .if_version = layout::kAnyVersion, .data_offset = 512,
            .dtype = static_cast<uint8_t>(DType::kU8), .flags = layout::kRecordKeep, .replicas = 1};
  }
  int PutThrough(RawClient& client, std::string_view name) {
    layout::RequestBlock* block = client.Fill(layout::RingOp::kPut, PutBody(GoodCreate(), name), 1024);
    client.Submit();
    return client.Await(block);
  }
  // The node serves others and has let go of the bad one.
  void ExpectOnlyItselfHarmed(RawClient& bad) {
    EXPECT_EQ(bad.Receive(), "") << "its session should have ended";
    auto good = Client();
    EXPECT_EQ(PutThrough(*good, "good"), 0);
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (Df().sessions() != 1 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(Df().sessions(), 1);
    EXPECT_EQ(Df().drafts(), 0);
  }
};

TEST_F(HostileClientTest, WellFormedPutWorks) {
  auto client = Client();
  EXPECT_EQ(PutThrough(*client, "a"), 0);
  EXPECT_EQ(store_->Stat("a", 0)->nbytes(), 16);
}

TEST_F(HostileClientTest, TailFarAheadEndsTheSession) {
  auto client = Client();
  client->ring()->tail.store(1'000'000);
  client->Wake();
  ExpectOnlyItselfHarmed(*client);
}

TEST_F(HostileClientTest, BlockOutsideTheStagingAreaEndsTheSession) {
  for (const uint32_t unit : {0u, 1u, 0xffffffffu, static_cast<uint32_t>(layout::kRingBytes / 64)}) {
    auto client = Client();
    client->Submit(unit);
    ExpectOnlyItselfHarmed(*client);
  }
}

TEST_F(HostileClientTest, BlockSizesThatLieEndTheSession) {
  struct Lie {
    uint32_t block_bytes, request_bytes, response_offset;
  };
  for (const Lie& lie : {Lie{0, 0, 64}, Lie{0xffffffff, 8, 64}, Lie{4096, 0xffffffff, 64}, Lie{4096, 8, 0}, Lie{4096, 8, 4096},
                         Lie{4096, 8, 65}, Lie{4096, 8, 0xfffffff8}}) {
    auto client = Client();
    layout::RequestBlock* block = client->Fill(layout::RingOp::kAbort, std::string(16, '\0'));
    block->block_bytes = lie.block_bytes;
    block->request_bytes = lie.request_bytes;
    block->response_offset = lie.response_offset;
    client->Submit();
    ExpectOnlyItselfHarmed(*client);
  }
}

TEST_F(HostileClientTest, MalformedRequestsAreAnsweredAndChangeNothing) {
  auto client = Client();
  auto ask = [&](layout::RingOp op, const std::string& body) {
    layout::RequestBlock* block = client->Fill(op, body, 1024);
    client->Submit();
    const int code = client->Await(block);
    EXPECT_NE(code, 0) << "op " << static_cast<int>(op) << " with " << body.size() << " bytes";
    EXPECT_NE(code, -1);
    return client->Text(block);
  };
  layout::CreateRequest create = GoodCreate();
  create.data_offset = 0xffffff00;
  EXPECT_THAT(ask(layout::RingOp::kPut, PutBody(create, "a")), HasSubstr("data_offset"));
  create = GoodCreate();
  create.nbytes = uint64_t{1} << 40;
  EXPECT_THAT(ask(layout::RingOp::kPut, PutBody(create, "a")), HasSubstr("nbytes"));
  create = GoodCreate();
  create.flags = 0xff;
  EXPECT_THAT(ask(layout::RingOp::kPut, PutBody(create, "a")), HasSubstr("flags"));
  std::string deep = PutBody(GoodCreate(), "a");
  deep[offsetof(layout::CreateRequest, rank)] = 17;
  EXPECT_THAT(ask(layout::RingOp::kPut, deep), HasSubstr("rank"));
  ask(layout::RingOp::kPut, "short");
  ask(layout::RingOp::kPublish, std::string(16, '\xff'));
  ask(layout::RingOp::kAbort, std::string(15, 'x'));
  ask(layout::RingOp::kLookup, std::string(16, '\xff'));
  ask(layout::RingOp::kCall, std::string(8, '\xff'));
  ask(static_cast<layout::RingOp>(99), "x");
  const layout::CallRequest call{static_cast<uint32_t>(rpc::Method::kList), 4};
  EXPECT_THAT(ask(layout::RingOp::kCall, std::string(reinterpret_cast<const char*>(&call), sizeof(call)) + "\xff\xff\xff\xff"),
              HasSubstr("ListRequest"));
  EXPECT_EQ(Df().tensors(), 0);
  EXPECT_EQ(PutThrough(*client, "still served"), 0);
}

// The ring thread never comes to rest while this thread runs, and answers what is late all the same.
TEST_F(HostileClientTest, AQueueThatIsNeverEmptyDelaysNobodysTimeout) {
  auto flooder = Client();
  flooder->Fill(layout::RingOp::kLookup, std::string(15, 'x'));
  std::atomic<bool> over{false};
  std::thread flood([&] {
    layout::RingHeader* ring = flooder->ring();
    while (!over.load()) {
      const uint32_t tail = ring->tail.load();
      if (tail - ring->head.load() >= layout::kQueueEntries) continue;
      ring->queue[tail % layout::kQueueEntries] = RawClient::kFirstUnit;
      ring->tail.store(tail + 1);
      if (ring->node_sleeping.load() != 0) flooder->Wake();
    }
  });
  auto client = Client();
  v1::WaitRequest wait;
  wait.set_name("never");
  wait.set_timeout_ns(50'000'000);
  const std::string message = wait.SerializeAsString();
  const layout::CallRequest call{static_cast<uint32_t>(rpc::Method::kWait), static_cast<uint32_t>(message.size())};
  layout::RequestBlock* block = client->Fill(layout::RingOp::kCall, std::string(reinterpret_cast<const char*>(&call), sizeof(call)) + message);
  client->Submit();
  EXPECT_EQ(client->Await(block), static_cast<int>(absl::StatusCode::kDeadlineExceeded));
  over.store(true);
  flood.join();
}

TEST_F(HostileClientTest, NonsensePinsHoldNothingAndBreakNothing) {
  auto client = Client();
  ASSERT_EQ(PutThrough(*client, "a"), 0);
  std::mt19937_64 random(1);
  for (uint32_t i = 0; i < layout::kPinsPerChunk; ++i) client->pins()[i].store(random());
  store_->Delete("a", 0).value();
  v1::PinsResponse pins;
  store_->ListPins({}, &pins);
  EXPECT_EQ(Df().retired(), 0);
  EXPECT_EQ(PutThrough(*client, "b"), 0);
}

TEST_F(HostileClientTest, OtherLayoutVersionIsRefusedWithAClearError) {
  RawClient client(socket_path());
  layout::HelloMessage hello{.header = RawClient::Header(layout::FdType::kHello)};
  hello.header.layout_version = 99;
  client.Send(hello);
  const std::string reply = client.Receive();
  ASSERT_EQ(RawClient::TypeOf(reply), layout::FdType::kRefusal);
  EXPECT_THAT(reply, HasSubstr("layout version 99"));
}

TEST_F(HostileClientTest, GarbageOnTheSocketEndsThatSessionOnly) {
  std::mt19937 random(7);
  for (int round = 0; round < 30; ++round) {
    RawClient client(socket_path());
    if (round % 2 == 0) {
      ASSERT_TRUE(client.Open());
    }
    std::string bytes(random() % 200, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    client.SendBytes(bytes.data(), bytes.size());
    if (round % 2 == 0 && !bytes.empty()) {
      EXPECT_EQ(client.Receive(), "");
    }
  }
  auto good = Client();
  EXPECT_EQ(PutThrough(*good, "good"), 0);
}

TEST_F(HostileClientTest, ForkWithWrongDescriptorsIsRefused) {
  auto client = Client();
  client->Send(layout::ForkMessage{RawClient::Header(layout::FdType::kFork, 5), 1, 0});
  EXPECT_EQ(RawClient::TypeOf(client->Receive()), layout::FdType::kRefusal);
  auto pair = SocketPair().value();
  const int not_a_chunk = eventfd(0, EFD_CLOEXEC);
  client->Send(layout::ForkMessage{RawClient::Header(layout::FdType::kFork, 6), 1, 0}, {pair.first.get(), not_a_chunk});
  close(not_a_chunk);
  EXPECT_EQ(RawClient::TypeOf(client->Receive()), layout::FdType::kRefusal);
  EXPECT_EQ(PutThrough(*client, "a"), 0);
  EXPECT_EQ(Df().sessions(), 1);
}

TEST_F(HostileClientTest, SegmentsOfOthersDraftsAreNotHandedOut) {
  auto writer = Client();
  writer->Send(layout::SegmentMessage{.header = RawClient::Header(layout::FdType::kOpenExtent, 9), .segment = 0, .kind = {}, .bytes = 2 << 20});
  std::vector<UniqueFd> fds;
  const std::string reply = writer->Receive(&fds);
  ASSERT_EQ(RawClient::TypeOf(reply), layout::FdType::kSegmentReply);
  layout::SegmentMessage extent;
  std::memcpy(&extent, reply.data(), sizeof(extent));
  auto other = Client();
  other->Send(layout::SegmentMessage{.header = RawClient::Header(layout::FdType::kGetSegment, 10), .segment = extent.segment});
  EXPECT_EQ(RawClient::TypeOf(other->Receive()), layout::FdType::kRefusal);
  other->Send(layout::SegmentMessage{.header = RawClient::Header(layout::FdType::kExtentMapped, 11), .segment = extent.segment});
  EXPECT_EQ(RawClient::TypeOf(other->Receive()), layout::FdType::kRefusal);
}

layout::MutableRequest OpenRegion(uint64_t number) {
  layout::MutableRequest request{.header = RawClient::Header(layout::FdType::kOpenMutable, number), .kind = layout::MutableKind::kRegion,
                                 .flags = layout::kMutableCreate, .nbytes = 4096};
  request.name_bytes = 1;
  request.name[0] = 'r';
  return request;
}

TEST_F(HostileClientTest, RequestsForMutableMemoryAreChecked) {
  auto client = Client();
  layout::MutableRequest request = OpenRegion(5);
  request.kind = static_cast<layout::MutableKind>(77);
  client->Send(request);
  EXPECT_EQ(RawClient::TypeOf(client->Receive()), layout::FdType::kRefusal);
  request = OpenRegion(6);
  request.name_bytes = 60000;
  client->Send(request);
  EXPECT_EQ(RawClient::TypeOf(client->Receive()), layout::FdType::kRefusal);
  client->Send(layout::MutableMessage{RawClient::Header(layout::FdType::kMutableMapped, 7), 12345, 0, 0});
  EXPECT_EQ(RawClient::TypeOf(client->Receive()), layout::FdType::kRefusal);
  client->Send(layout::MutableMessage{RawClient::Header(layout::FdType::kMutableClosed, 0), 12345, ~0u, 0});
  EXPECT_EQ(PutThrough(*client, "a"), 0);
  EXPECT_EQ(Df().regions(), 0);
}

TEST_F(HostileClientTest, NobodyClosesWhatOthersHaveOpen) {
  auto owner = Client();
  owner->Send(OpenRegion(9));
  std::vector<UniqueFd> fds;
  const std::string reply = owner->Receive(&fds);
  ASSERT_EQ(RawClient::TypeOf(reply), layout::FdType::kMutableReply);
  layout::MutableReply region;
  std::memcpy(&region, reply.data(), sizeof(region));
  auto other = Client();
  other->Send(layout::MutableMessage{RawClient::Header(layout::FdType::kMutableClosed, 0), region.segment, 0, 9});
  other->Send(layout::SegmentMessage{.header = RawClient::Header(layout::FdType::kGetSegment, 10), .segment = region.segment});
  EXPECT_EQ(RawClient::TypeOf(other->Receive()), layout::FdType::kRefusal) << "by name only";
  EXPECT_EQ(Df().regions(), 1);
}

}  // namespace
}  // namespace penstock::server
