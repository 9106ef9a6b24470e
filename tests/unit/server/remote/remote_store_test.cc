// What needs no peer; with peers: tests/cluster/test_fetch.py and test_put_elsewhere.py.
#include "server/remote/remote_store.h"

#include <gtest/gtest.h>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "tests/unit/server/store/store_fixture.h"

namespace penstock::server {
namespace {

class RemoteStoreTest : public StoreTest {
 protected:
  absl::Status Publish(std::shared_ptr<Session> session, const Placed& draft) {
    LeaseRecall recall(store_.get());
    RemoteStore remote(store_.get(), &recall, {});
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

TEST_F(RemoteStoreTest, PutsOfOneOrderKeepIt) {
  const auto session = NewSession();
  LeaseRecall recall(store_.get());
  RemoteStore remote(store_.get(), &recall, {});
  absl::BlockingCounter done(3);
  remote.OnDone([&](uint64_t) { done.DecrementCount(); });
  for (uint64_t bytes : {uint64_t{8}, uint64_t{5} << 20, uint64_t{16}}) {  // the second one would go alone
    const Placed draft = Reserve(*session, Spec("x", bytes)).value();
    remote.StartPublish(session, draft.record, draft.record_seq, "x");
  }
  EXPECT_TRUE(remote.Publishing([] { return "x"; }));
  remote.Flush();
  done.Wait();
  EXPECT_EQ(store_->Stat("x", 0)->nbytes(), 16u);
  EXPECT_EQ(store_->Stat("x", 0)->version().number(), 3u);
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
