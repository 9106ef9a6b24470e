// RingClient against a node that is a thread of this test.
#include "client/session/ring_client.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <thread>

#include "transport/futex.h"
#include "transport/segment/memfd.h"

namespace penstock::client {
namespace {

using layout::BlockState;
using layout::RequestBlock;
using layout::RingHeader;
using layout::RingOp;

class RingClientTest : public ::testing::Test {
 protected:
  RingClientTest() {
    const auto memfd =
        CreateMemfd({.name = "ring", .size = layout::kRingBytes, .want = PageKind::kSmall});
    node_ = *Mapping::MapWritable(memfd->fd(), layout::kRingBytes);
    RingHeader* header = Header();
    header->magic = layout::kRingMagic;
    header->layout_version = layout::kLayoutVersion;
    header->queue_entries = layout::kQueueEntries;
    header->ring_bytes = layout::kRingBytes;
    header->staging_offset = layout::kRingStagingOffset;
    header->staging_bytes = layout::kStagingBytes;
    header->node_sleeping = 1;
    event_ = eventfd(0, EFD_CLOEXEC);
    EXPECT_TRUE(ring_
                    .Attach(*Mapping::MapWritable(memfd->fd(), layout::kRingBytes),
                            UniqueFd(event_), &generation_)
                    .ok());
  }

  RingHeader* Header() { return reinterpret_cast<RingHeader*>(node_.data()); }
  uint32_t Queued() { return Header()->tail.load() - Header()->head.load(); }
  RequestBlock* PeekNext() {
    const uint32_t head = Header()->head.load();
    return reinterpret_cast<RequestBlock*>(
        node_.data() +
        uint64_t{Header()->queue[head % layout::kQueueEntries]} * layout::kBlockUnit);
  }
  // Takes the next request off the queue, as a node does.
  RequestBlock* TakeNext() {
    RequestBlock* block = PeekNext();
    Header()->head.fetch_add(1);
    return block;
  }
  static void Answer(RequestBlock* block, absl::StatusCode code, std::string_view text) {
    memcpy(reinterpret_cast<char*>(block) + block->response_offset, text.data(), text.size());
    block->status_code = static_cast<int32_t>(code);
    block->response_bytes = static_cast<uint32_t>(text.size());
    block->state.exchange(static_cast<uint32_t>(BlockState::kDone));
    FutexWake(&block->state);
  }
  RingRequest Allocate(uint32_t data_bytes = 0, RingOp op = RingOp::kLookup) {
    return *ring_.Allocate({.op = op, .request_bytes = 100, .data_bytes = data_bytes},
                           Deadline::After(absl::Seconds(5)));
  }

  // Whether the place is given out again. Blocks go round the staging area and none is smaller than
  // a unit, so these many requests come past every place that is free.
  bool IsFree(const char* place) {
    for (uint64_t i = 0; i < layout::kStagingBytes / layout::kBlockUnit; ++i) {
      if (Allocate().body() == place) return true;
    }
    return false;
  }

  std::atomic<bool> ended_{false};
  std::atomic<uint64_t> generation_{1};
  Mapping node_;
  int event_;
  RingClient ring_{&ended_};
};

TEST_F(RingClientTest, RequestAndAnswer) {
  RingRequest request = Allocate(1000);
  memset(request.body(), 1, 100);
  memset(request.data(), 2, 1000);
  request.Submit();
  uint64_t wakes = 0;
  ASSERT_EQ(read(event_, &wakes, 8), 8);  // the node slept, so it was woken
  RequestBlock* block = TakeNext();
  EXPECT_NE(block->request_id, 0u);
  EXPECT_GE(block->block_bytes - block->response_offset, layout::kMinResponseBytes);
  EXPECT_GE(block->response_offset, request.data_offset() + 1000);
  std::thread node([&] { Answer(block, absl::StatusCode::kOk, "fine"); });
  EXPECT_TRUE(request.Wait(Deadline::After(absl::Seconds(5))).ok());
  EXPECT_EQ(request.response(), "fine");
  node.join();
}

TEST_F(RingClientTest, ErrorsCarryCodeAndText) {
  RingRequest request = Allocate();
  request.Submit();
  Answer(TakeNext(), absl::StatusCode::kNotFound, "no such tensor");
  const absl::Status status = request.Wait(Deadline::Never());
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_EQ(status.message(), "no such tensor");
  EXPECT_FALSE(request.ResponseAs<layout::CreateResponse>().ok());
}

TEST_F(RingClientTest, BlockOfWhoGaveUpIsNotReusedBeforeItsAnswer) {
  std::optional<RingRequest> request = Allocate();
  const char* place = request->body();
  request->Submit();
  EXPECT_TRUE(absl::IsDeadlineExceeded(request->Wait(Deadline::After(absl::Milliseconds(1)))));
  request.reset();
  RequestBlock* block = TakeNext();
  EXPECT_FALSE(IsFree(place));
  Answer(block, absl::StatusCode::kOk, "");
  EXPECT_TRUE(IsFree(place));
}

// A node that dies right after an answer is followed by one that looks at the same block.
TEST_F(RingClientTest, AnsweredBlockIsNotReusedBeforeTheNodeHasPassedIt) {
  std::optional<RingRequest> request = Allocate(0, RingOp::kReserve);
  const char* place = request->body();
  request->Submit();
  layout::CreateResponse made{};
  made.record = 5;
  Answer(PeekNext(), absl::StatusCode::kOk,
         std::string_view(reinterpret_cast<const char*>(&made), sizeof(made)));
  EXPECT_TRUE(request->Wait(Deadline::After(absl::Seconds(5))).ok());
  request.reset();
  EXPECT_FALSE(IsFree(place));
  EXPECT_EQ(PeekNext()->state.load(), static_cast<uint32_t>(BlockState::kDone));
  TakeNext();
  EXPECT_TRUE(IsFree(place));
  EXPECT_EQ(Queued(), 0u);  // the draft is in use: nobody gave it up
}

TEST_F(RingClientTest, DraftOfWhoGaveUpIsAborted) {
  std::optional<RingRequest> request = Allocate(0, RingOp::kReserve);
  request->Submit();
  (void)request->Wait(Deadline::After(absl::Milliseconds(1)));
  request.reset();
  layout::CreateResponse made{};
  made.record = 5;
  made.record_seq = 8;
  Answer(TakeNext(), absl::StatusCode::kOk,
         std::string_view(reinterpret_cast<const char*>(&made), sizeof(made)));
  for (int i = 0; i < 2; ++i) Allocate();
  ASSERT_EQ(Queued(), 1u);
  RequestBlock* abort = TakeNext();
  EXPECT_EQ(abort->op, static_cast<uint32_t>(RingOp::kAbort));
  layout::DraftRequest draft;
  memcpy(&draft, abort + 1, sizeof(draft));
  EXPECT_EQ(draft.record, 5u);
  EXPECT_EQ(draft.record_seq, 8u);
}

TEST_F(RingClientTest, RequestThatDiedWithItsNodeIsAskedAgain) {
  RingRequest request = Allocate();
  request.Submit();
  RequestBlock* lost = TakeNext();
  std::thread node([&] {
    generation_ = 2;
    while (Queued() == 0) std::this_thread::yield();
    RequestBlock* again = TakeNext();
    EXPECT_EQ(again, lost);
    Answer(again, absl::StatusCode::kOk, "second node");
  });
  EXPECT_TRUE(request.Wait(Deadline::After(absl::Seconds(10))).ok());
  EXPECT_EQ(request.response(), "second node");
  node.join();
}

TEST_F(RingClientTest, RequestStillInTheQueueIsNotAskedTwice) {
  RingRequest request = Allocate();
  request.Submit();
  generation_ = 2;
  EXPECT_TRUE(absl::IsDeadlineExceeded(request.Wait(Deadline::After(absl::Milliseconds(250)))));
  EXPECT_EQ(Queued(), 1u);
}

TEST_F(RingClientTest, EndOfTheStoreEndsTheWait) {
  RingRequest request = Allocate();
  request.Submit();
  std::thread node([&] { ended_ = true; });
  EXPECT_TRUE(absl::IsUnavailable(request.Wait(Deadline::Never())));
  node.join();
}

TEST_F(RingClientTest, FullStagingAreaWaitsForSpace) {
  std::vector<RingRequest> held;
  while (auto request = ring_.TryAllocate({.op = RingOp::kPut, .data_bytes = 1 << 20})) {
    held.push_back(*std::move(request));
  }
  EXPECT_EQ(held.size(), 7u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      ring_.Allocate({.op = RingOp::kPut, .data_bytes = 1 << 20}, Deadline::After(absl::Milliseconds(5)))
          .status()));
  std::thread other([&] { held.pop_back(); });
  EXPECT_TRUE(
      ring_.Allocate({.op = RingOp::kPut, .data_bytes = 1 << 20}, Deadline::After(absl::Seconds(5)))
          .ok());
  other.join();
  EXPECT_TRUE(absl::IsInvalidArgument(
      ring_.Allocate({.op = RingOp::kPut, .data_bytes = 9 << 20}, Deadline::Never()).status()));
}

TEST_F(RingClientTest, AnotherLayoutVersionIsRefused) {
  const auto memfd =
      CreateMemfd({.name = "ring", .size = layout::kRingBytes, .want = PageKind::kSmall});
  Mapping other = *Mapping::MapWritable(memfd->fd(), layout::kRingBytes);
  auto* header = reinterpret_cast<RingHeader*>(other.data());
  header->magic = layout::kRingMagic;
  header->layout_version = layout::kLayoutVersion + 1;
  RingClient ring(&ended_);
  EXPECT_TRUE(
      absl::IsFailedPrecondition(ring.Attach(std::move(other), UniqueFd(), &generation_)));
}

}  // namespace
}  // namespace penstock::client
