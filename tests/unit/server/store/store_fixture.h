// StoreTest: a Store on an in-process warden, and the steps that tests take with it.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "proto/layout/metadata_codec.h"
#include "server/store/store.h"
#include "tests/unit/server/store/in_process_warden.h"
#include "transport/fd_socket/fd_socket.h"

namespace penstock::server {

class StoreTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kMemory = uint64_t{64} << 20;
  static constexpr int kMaxDrafts = 5000;

  void SetUp() override { Start(); }

  void Start(bool adopt_always = false) {
    context_ = NextNode(&memory_, ++generation_);
    absl::StatusOr<std::unique_ptr<Store>> store =
        Store::Open(&context_, {.memory_bytes = kMemory, .max_tensors = max_tensors_, .max_pins = max_pins_, .max_drafts_per_session = kMaxDrafts,
                                .adopt_always = adopt_always, .in_cluster = in_cluster_, .directory = with_directory_,
                                .spill_dir = spill_dir_, .spill_limit = spill_limit_});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  // What a SIGKILL of the node leaves: the memory, and nothing else.
  void KillAndRestart() {
    store_.reset();
    Start();
  }

  std::shared_ptr<Session> NewSession() {
    auto pair = SocketPair().value();
    peers_.push_back(std::move(pair.second));
    std::shared_ptr<Session> session = store_->OpenSession({.pid = 1}, std::move(pair.first)).value();
    EXPECT_TRUE(store_->AddRing(*session).ok());
    return session;
  }

  static CreateSpec Spec(std::string_view name, uint64_t nbytes) {
    return {.name = name, .dtype = DType::kU8, .shape = Shape({static_cast<int64_t>(nbytes)}), .nbytes = nbytes, .in_arena = true};
  }

  // Reserves, opening extents and waiting for memory as a client would.
  absl::StatusOr<Placed> Reserve(Session& session, const CreateSpec& spec, absl::Duration patience = absl::Seconds(10)) {
    const absl::Time deadline = absl::Now() + patience;
    while (true) {
      const uint64_t epoch = store_->change_epoch();
      absl::StatusOr<Placed> placed = store_->Reserve(session, spec);
      if (!placed.ok() || placed->kind == Placed::Kind::kPlaced || placed->kind == Placed::Kind::kDone) return placed;
      if (placed->kind == Placed::Kind::kNeedExtent) {
        absl::StatusOr<SharedSegment> extent = store_->MakeExtent(session.id, placed->need_extent_bytes);
        if (!extent.ok()) return extent.status();
        if (absl::Status s = store_->SealExtent(session.id, extent->id); !s.ok()) return s;
        continue;
      }
      if (absl::Now() > deadline) return absl::DeadlineExceededError("memory did not come");
      store_->WaitForChange(epoch, deadline - absl::Now());
    }
  }

  absl::StatusOr<Published> Put(Session& session, CreateSpec spec, char fill = 'x') {
    absl::StatusOr<Placed> placed = Reserve(session, spec);
    if (!placed.ok()) return placed.status();
    if (spec.nbytes > 0) std::memset(placed->block.address, fill, spec.nbytes);
    return store_->Publish(session, placed->record, placed->record_seq);
  }

  // Of names that nobody elsewhere may serve.
  absl::StatusOr<uint64_t> DeletePrefix(std::string_view prefix) {
    std::vector<std::string> leased;
    absl::StatusOr<uint64_t> count = store_->DeletePrefix(prefix, &leased);
    EXPECT_TRUE(leased.empty());
    return count;
  }

  // A reader's pin, as client code does it.
  void Pin(const Session& session, uint32_t slot, const Published& tensor) {
    const_cast<std::atomic<uint64_t>*>(session.pins()[0].words())[slot].store(layout::PinWord(tensor.record, tensor.record_seq));
  }
  void Unpin(const Session& session, uint32_t slot) {
    const_cast<std::atomic<uint64_t>*>(session.pins()[0].words())[slot].store(0);
  }

  v1::DfResponse Df() {
    v1::DfResponse df;
    store_->Df(&df);
    return df;
  }

  bool with_directory_ = false;  // for Start
  uint64_t max_tensors_ = 0, max_pins_ = 0;
  std::string spill_dir_, spill_limit_;
  WardenMemory memory_;
  uint64_t generation_ = 0;
  warden::NodeContext context_;
  std::vector<UniqueFd> peers_;
  bool in_cluster_ = false;  // of the next Start
  std::unique_ptr<Store> store_;
};

}  // namespace penstock::server
