// What needs no peer; with peers: tests/cluster/test_fetch.py and test_put_elsewhere.py.
#include "server/remote/remote_store.h"

#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"
#include "tests/unit/server/store/store_fixture.h"

namespace penstock::server {
namespace {

class RemoteStoreTest : public StoreTest {
 protected:
  absl::Status Publish(std::shared_ptr<Session> session, const Placed& draft) {
    LeaseRecall recall(store_.get());
    RemoteStore remote(store_.get(), &recall, {}, {});
    absl::Notification done;
    remote.OnDone([&](uint64_t) { done.Notify(); });
    const uint64_t key = remote.StartPublish(std::move(session), draft.record, draft.record_seq, "x");
    remote.Flush();
    done.WaitForNotification();
    return remote.Take(key)->status;
  }
};

TEST_F(RemoteStoreTest, WhatNobodyElseHasIsPublishedHere) {
  const auto session = NewSession();
  EXPECT_TRUE(Publish(session, Reserve(*session, Spec("x", 8)).value()).ok());
  EXPECT_TRUE(store_->Stat("x", 0).ok());
}

TEST_F(RemoteStoreTest, ADraftWhoseClientHasDiedIsNotPublished) {
  const auto session = NewSession();
  const Placed draft = Reserve(*session, Spec("x", 8)).value();
  store_->EndSession(session->id);
  EXPECT_TRUE(absl::IsUnavailable(Publish(store_->FindSession(session->id), draft))) << "the ring asks the store for it, in vain";
  EXPECT_TRUE(absl::IsNotFound(Publish(session, draft)));
  EXPECT_TRUE(absl::IsNotFound(store_->Stat("x", 0).status()));
  EXPECT_EQ(Df().drafts(), 0u);
}

}  // namespace
}  // namespace penstock::server
