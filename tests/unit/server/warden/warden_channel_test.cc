#include "server/warden/warden_channel.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

namespace penstock::warden {
namespace {

struct Ends {
  UniqueFd node, warden;
};

Ends MakeEnds() {
  auto ends = SocketPair();
  EXPECT_TRUE(ends.ok()) << ends.status();
  return {std::move(ends->first), std::move(ends->second)};
}

Request Receive(int socket) {
  Request request{};
  auto message = ReceiveMessage(socket, {reinterpret_cast<char*>(&request), sizeof(request)});
  EXPECT_TRUE(message.ok()) << message.status();
  return request;
}

void Answer(int socket, uint64_t number, uint64_t id) {
  Reply reply{};
  reply.magic = kWardenMagic;
  reply.number = number;
  reply.id = id;
  EXPECT_TRUE(SendMessage(socket, {reinterpret_cast<const char*>(&reply), sizeof(reply)}, {}).ok());
}

Request WithId(uint64_t id) {
  Request request{};
  request.magic = kWardenMagic;
  request.op = Op::kDropSession;
  request.id = id;
  return request;
}

TEST(WardenChannel, AnswersInAnotherOrderReachWhoAsked) {
  Ends ends = MakeEnds();
  WardenChannel channel(std::move(ends.node));
  constexpr int kThreads = 8;
  std::vector<std::thread> threads;
  for (uint64_t id = 1; id <= kThreads; ++id) {
    threads.emplace_back([&channel, id] {
      auto answer = channel.Call(WithId(id));
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(answer->reply.id, id + 1000);
    });
  }
  std::vector<Request> requests;
  for (int i = 0; i < kThreads; ++i) requests.push_back(Receive(ends.warden.get()));
  for (auto it = requests.rbegin(); it != requests.rend(); ++it) {
    Answer(ends.warden.get(), it->number, it->id + 1000);
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(WardenChannel, DeathOfTheWardenFailsEveryoneNowAndLater) {
  Ends ends = MakeEnds();
  WardenChannel channel(std::move(ends.node));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back(
        [&channel] { EXPECT_TRUE(absl::IsUnavailable(channel.Call(WithId(1)).status())); });
  }
  for (int i = 0; i < 4; ++i) Receive(ends.warden.get());
  ends.warden.reset();
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(absl::IsUnavailable(channel.Call(WithId(2)).status()));
}

TEST(WardenChannel, ErrorOfTheWardenComesWithItsText) {
  Ends ends = MakeEnds();
  WardenChannel channel(std::move(ends.node));
  std::thread caller([&channel] {
    const absl::Status status = channel.Call(WithId(5)).status();
    EXPECT_EQ(status, absl::NotFoundError("no such thing"));
  });
  Reply reply{};
  reply.magic = kWardenMagic;
  reply.number = Receive(ends.warden.get()).number;
  reply.code = static_cast<int32_t>(absl::StatusCode::kNotFound);
  reply.text_bytes = 13;
  std::memcpy(reply.text, "no such thing", 13);
  ASSERT_TRUE(
      SendMessage(ends.warden.get(), {reinterpret_cast<const char*>(&reply), sizeof(reply)}, {})
          .ok());
  caller.join();
}

TEST(WardenChannel, MalformedAnswerBreaksTheChannel) {
  Ends ends = MakeEnds();
  WardenChannel channel(std::move(ends.node));
  std::thread caller(
      [&channel] { EXPECT_TRUE(absl::IsInternal(channel.Call(WithId(5)).status())); });
  Receive(ends.warden.get());
  ASSERT_TRUE(SendMessage(ends.warden.get(), "what?", {}).ok());
  caller.join();
}

}  // namespace
}  // namespace penstock::warden
