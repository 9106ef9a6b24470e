#include "server/ring/parked_requests.h"

#include <gmock/gmock.h>

#include <utility>
#include <vector>

#include "transport/fd_socket/fd_socket.h"

namespace penstock::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kAnyChange = 0;
const absl::Time kStart = absl::FromUnixSeconds(1'000'000);

class ParkedRequestsTest : public ::testing::Test {
 protected:
  static std::shared_ptr<Session> NewSession(uint64_t id) {
    return Session::Create(id, {.pid = 1}, std::move(SocketPair()->first)).value();
  }
  // `number` tells the request apart.
  void Add(uint64_t number, uint64_t name_hash, int seconds = 10) {
    parked_.Add({session_, {.request_id = number}, {kStart + absl::Seconds(seconds), name_hash}});
  }
  ParkedRequests::Attempt Answers(bool answer) {
    return [this, answer](ParkedRequest& parked, bool late) {
      (late ? late_ : asked_).push_back(parked.request.request_id);
      return answer;
    };
  }
  std::vector<uint64_t> Asked() { return std::exchange(asked_, {}); }

  std::shared_ptr<Session> session_ = NewSession(1);
  ParkedRequests parked_;
  std::vector<uint64_t> asked_, late_;
};

TEST_F(ParkedRequestsTest, AChangeConcernsThoseWhoWaitForItFirstComeFirst) {
  Add(1, 77);
  Add(2, kAnyChange);
  Add(3, 88);
  Add(4, 77);
  parked_.RetryChanged({}, kStart, Answers(false));
  EXPECT_THAT(Asked(), ElementsAre(2));
  parked_.RetryChanged({77, 99, 77}, kStart, Answers(false));
  EXPECT_THAT(Asked(), ElementsAre(1, 2, 4));
  EXPECT_EQ(parked_.count(1), 4u);
  parked_.RetryChanged({77}, kStart, Answers(true));
  EXPECT_THAT(Asked(), ElementsAre(1, 2, 4));
  parked_.RetryChanged({77, 88}, kStart, Answers(true));
  EXPECT_THAT(Asked(), ElementsAre(3));
  EXPECT_TRUE(parked_.empty());
  EXPECT_EQ(parked_.count(1), 0u);
}

TEST_F(ParkedRequestsTest, LateOnesAreToldSo) {
  Add(1, 77, 5);
  Add(2, 77, 3);
  Add(3, kAnyChange, 4);
  EXPECT_EQ(parked_.next_deadline(), kStart + absl::Seconds(3));
  parked_.RetryLate(kStart + absl::Seconds(2), Answers(true));
  EXPECT_THAT(late_, IsEmpty());
  parked_.RetryLate(kStart + absl::Seconds(4), Answers(true));
  EXPECT_THAT(late_, ElementsAre(2, 3));
  EXPECT_THAT(asked_, IsEmpty());
  EXPECT_EQ(parked_.next_deadline(), kStart + absl::Seconds(5));
  parked_.RetryChanged({77}, kStart + absl::Seconds(6), Answers(true));
  EXPECT_THAT(late_, ElementsAre(2, 3, 1));
  EXPECT_EQ(parked_.next_deadline(), absl::InfiniteFuture());
}

TEST_F(ParkedRequestsTest, ARequestMayGoOnToWaitForSomethingElse) {
  Add(1, 77, 5);
  parked_.RetryChanged({77}, kStart, [](ParkedRequest& parked, bool) {
    parked.parking = {kStart + absl::Seconds(9), 88};
    return false;
  });
  EXPECT_EQ(parked_.next_deadline(), kStart + absl::Seconds(9));
  parked_.RetryChanged({77}, kStart, Answers(true));
  EXPECT_THAT(Asked(), IsEmpty());
  parked_.RetryChanged({88}, kStart, Answers(true));
  EXPECT_THAT(Asked(), ElementsAre(1));
  EXPECT_TRUE(parked_.empty());
  EXPECT_EQ(parked_.next_deadline(), absl::InfiniteFuture());
}

TEST_F(ParkedRequestsTest, ASessionsRequestsLeaveWithIt) {
  Add(1, 77);
  Add(2, kAnyChange);
  session_ = NewSession(2);
  Add(3, 77);
  Add(4, kAnyChange);
  parked_.RemoveSession(1);
  EXPECT_EQ(parked_.count(1), 0u);
  EXPECT_EQ(parked_.count(2), 2u);
  parked_.RetryChanged({77}, kStart, Answers(true));
  EXPECT_THAT(Asked(), ElementsAre(3, 4));
  parked_.RemoveSession(2);
  EXPECT_TRUE(parked_.empty());
}

}  // namespace
}  // namespace penstock::server
