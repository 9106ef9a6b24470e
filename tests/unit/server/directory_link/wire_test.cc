#include "server/directory_link/wire.h"

#include <functional>
#include <string>
#include <vector>

#include "directory.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/server/directory_link/random_message.h"

namespace penstock::server::directory {
namespace {

namespace pb = v1::directory;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr uint64_t kSeed = 20261128;

std::string ErrorOf(const std::string& bytes, uint32_t partitions = kTestPartitions) {
  const absl::StatusOr<Message> message = Decode(bytes, partitions);
  EXPECT_FALSE(message.ok());
  return std::string(message.status().message());
}

// What is said of this message after something was changed on the wire.
template <class Kind>
std::string ErrorAfter(const Kind& message, const std::function<void(pb::DirectoryMessage&)>& change) {
  pb::DirectoryMessage wire;
  EXPECT_TRUE(wire.ParseFromString(Encode(message)));
  change(wire);
  return ErrorOf(wire.SerializeAsString());
}

TEST(DirectoryWire, EveryKindComesBackWithAllItsFields) {
  RandomMessages random(kSeed);
  size_t kinds = 0;
  ForEachKind([&]<class Kind>() {
    ++kinds;
    for (int i = 0; i < 200; ++i) {
      const Message sent = random.Make<Kind>();
      const absl::StatusOr<Message> got = Decode(Encode(sent), kTestPartitions);
      ASSERT_TRUE(got.ok()) << "kind " << sent.index() << ": " << got.status();
      ASSERT_TRUE(SameMessage(sent, *got)) << "kind " << sent.index() << ", message " << i;
    }
  });
  EXPECT_EQ(kinds, std::variant_size_v<Message>);
}

TEST(DirectoryWire, ADifferenceInAnyFieldIsSeenByTheTestAbove) {
  RandomMessages random(kSeed);
  Message sent = random.Make<Propose>(), other = sent;
  EXPECT_TRUE(SameMessage(sent, other));
  std::get<Propose>(other).info.cache ^= true;
  EXPECT_FALSE(SameMessage(sent, other));
  EXPECT_EQ(testing_fields::FieldCount<Propose>(), 11u);
  EXPECT_EQ(testing_fields::FieldCount<Entry>(), 11u);
  EXPECT_EQ(testing_fields::FieldCount<Verdicts>(), 1u);
}

TEST(DirectoryWire, ListsThatAreEmptyOrLongComeBack) {
  RandomMessages random(kSeed);
  for (const size_t count : {size_t{0}, size_t{1}, size_t{512}}) {
    Push push = random.Make<Push>();
    push.entries.resize(count);
    for (Entry& entry : push.entries) entry.SetText(random.NameIn(push.partition), std::string(1000, 'x'));
    const absl::StatusOr<Message> got = Decode(Encode(push), kTestPartitions);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(SameMessage(push, *got)) << count;
  }
}

// As Config::entries_per_message cuts them.
TEST(DirectoryWire, TheLargestListThatIsSentFits) {
  RandomMessages random(kSeed);
  Push push = random.Make<Push>();
  push.entries.resize(512);
  for (Entry& entry : push.entries) {
    entry.SetText(random.NameIn(push.partition), std::string(kMaxInfoBytes, 'i'));
    entry.holders.assign(1000, 7);
  }
  const std::string bytes = Encode(push);
  EXPECT_LT(bytes.size(), kMaxMessageBytes);
  EXPECT_TRUE(Decode(bytes, kTestPartitions).ok());
}

TEST(DirectoryWire, LimitsAreInclusive) {
  RandomMessages random(kSeed);
  Pull pull = random.Make<Pull>();
  pull.name = std::string(512, 'n');
  pull.info.info = std::string(kMaxInfoBytes, 'i');
  pull.info.replicas = 255;
  pull.from = std::vector<NodeId>(kMaxHolders, 7);
  const absl::StatusOr<Message> got = Decode(Encode(pull), kTestPartitions);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_TRUE(SameMessage(pull, *got));
  pull.name += 'n';
  EXPECT_THAT(ErrorOf(Encode(pull)), AllOf(StartsWith("pull.name: \""), HasSubstr("has 513 bytes")));
  pull.name.pop_back();
  pull.info.info += 'i';
  EXPECT_THAT(ErrorOf(Encode(pull)), StartsWith("pull.info.info: has 32769 bytes"));
  pull.info.info.clear();
  pull.from.push_back(7);
  EXPECT_THAT(ErrorOf(Encode(pull)), StartsWith("pull.from: has 4097 nodes"));
}

TEST(DirectoryWire, APartitionThatIsNotThereIsNamed) {
  RandomMessages random(kSeed);
  // Every kind that has one, at the top or in its list.
  size_t refused = 0;
  ForEachKind([&]<class Kind>() {
    Kind message = random.Make<Kind>();
    if constexpr (requires { message.partition; }) {
      message.partition = kTestPartitions;
      EXPECT_THAT(ErrorOf(Encode(message)), HasSubstr(".partition: 8 is none of the 8 partitions"));
      ++refused;
    }
    if constexpr (requires { message.items[0].partition; }) {
      message.items.resize(2);
      message.items[1] = message.items[0] = {};
      if constexpr (requires { message.items[0].name; }) message.items[0].name = random.NameIn(0);
      message.items[1].partition = 4'000'000'000;
      EXPECT_THAT(ErrorOf(Encode(message)), HasSubstr(".items[1].partition: 4000000000 is none of"));
      ++refused;
    }
    if constexpr (requires { message.partitions; }) {
      message.partitions = {0, 7, 8};
      EXPECT_THAT(ErrorOf(Encode(message)), HasSubstr(".partitions: 8 is none of the 8"));
      message.partitions.assign(kTestPartitions + 1, 0);
      EXPECT_THAT(ErrorOf(Encode(message)), HasSubstr(".partitions: has 9 items"));
      refused += 2;
    }
  });
  EXPECT_EQ(refused, 12u + 3u + 4u);
}

TEST(DirectoryWire, ANameOfAnotherPartitionIsRefused) {
  RandomMessages random(kSeed);
  Supersede supersede = random.Make<Supersede>();
  supersede.partition = (supersede.partition + 1) % kTestPartitions;
  EXPECT_THAT(ErrorOf(Encode(supersede)), StartsWith("supersede.name: belongs to partition "));
  Push push = random.Make<Push>();
  push.entries.resize(2);
  push.entries[0].SetText(random.NameIn(push.partition), "");
  push.entries[1].SetText(random.NameIn((push.partition + 1) % kTestPartitions), "");
  EXPECT_THAT(ErrorOf(Encode(push)), StartsWith("push.entries[1].name: belongs to partition "));
  Replicate replicate = random.Make<Replicate>();
  replicate.partition = (replicate.partition + 3) % kTestPartitions;
  EXPECT_THAT(ErrorOf(Encode(replicate)), StartsWith("replicate.entry.name: belongs to partition "));
  AnnouncePart part = random.Make<AnnouncePart>();
  part.records.resize(1);
  part.records[0].name = random.NameIn((part.partition + 1) % kTestPartitions);
  EXPECT_THAT(ErrorOf(Encode(part)), StartsWith("announce_part.records[0].name: belongs to partition "));
}

TEST(DirectoryWire, BadNamesAreRefusedInEveryKindThatHasOne) {
  RandomMessages random(kSeed);
  size_t refused = 0;
  for (const std::string& bad : {std::string(), std::string("a//b"), std::string("\xff"), std::string("a\0b", 3), std::string(513, 'a')}) {
    ForEachKind([&]<class Kind>() {
      Kind message = random.Make<Kind>();
      if constexpr (requires { message.name; }) {
        message.name = bad;
        EXPECT_THAT(ErrorOf(Encode(message)), HasSubstr(".name: \""));
        ++refused;
      }
      if constexpr (requires { message.after; }) {
        if (bad.empty()) return;  // the beginning
        message.after = bad;
        EXPECT_THAT(ErrorOf(Encode(message)), HasSubstr(".after: \""));
        ++refused;
      }
    });
  }
  EXPECT_EQ(refused, 5u * 14u + 4u * 4u);
  const std::string error = ErrorAfter(random.Make<Lookup>(), [](pb::DirectoryMessage& wire) {
    wire.mutable_lookup()->clear_names();
    wire.mutable_lookup()->add_names()->set_name("fine");
    wire.mutable_lookup()->add_names()->set_name("not//fine");
  });
  EXPECT_THAT(error, StartsWith("lookup.names[1].name: \"not//fine\" has an empty part"));
}

TEST(DirectoryWire, EnumerationsThatAreAbsentOrUnknownAreRefused) {
  RandomMessages random(kSeed);
  for (const int value : {0, 7, -1, 1000, std::numeric_limits<int>::min()}) {
    EXPECT_THAT(ErrorAfter(random.Make<ProposeAnswer>(), [&](auto& wire) { wire.mutable_propose_answer()->set_outcome(static_cast<pb::Outcome>(value)); }),
                StartsWith("propose_answer.outcome: has the unknown value"));
    EXPECT_THAT(ErrorAfter(Verdicts{{random.Make<Verdict>()}}, [&](auto& wire) { wire.mutable_verdicts()->mutable_items(0)->set_kind(static_cast<pb::VerdictKind>(value)); }),
                StartsWith("verdicts.items[0].kind: has the unknown value"));
    EXPECT_THAT(ErrorAfter(LookupAnswer{1, {random.Make<LookupAnswerItem>()}},
                           [&](auto& wire) { wire.mutable_lookup_answer()->mutable_items(0)->mutable_result()->set_status(static_cast<pb::LookupStatus>(value)); }),
                StartsWith("lookup_answer.items[0].result.status: has the unknown value"));
    AnnouncePart part = random.Make<AnnouncePart>();
    part.records.resize(1);
    part.records[0].name = random.NameIn(part.partition);
    EXPECT_THAT(ErrorAfter(part, [&](auto& wire) { wire.mutable_announce_part()->mutable_records(0)->set_state(static_cast<pb::RecordState>(value)); }),
                StartsWith("announce_part.records[0].state: has the unknown value"));
  }
}

TEST(DirectoryWire, NodesAndReplicasAreChecked) {
  RandomMessages random(kSeed);
  Propose propose = random.Make<Propose>();
  propose.reasons.clear();
  propose.holders = {7, 0};
  EXPECT_EQ(ErrorOf(Encode(propose)), "propose.holders: 0 is no node");
  propose.holders = {7};
  propose.info.replicas = 0;
  EXPECT_EQ(ErrorOf(Encode(propose)), "propose.info.replicas: 0 is not 1 .. 255");
  propose.info.replicas = 1;
  EXPECT_THAT(ErrorAfter(propose, [](auto& wire) { wire.mutable_propose()->mutable_info()->set_replicas(256); }), HasSubstr("256 is not 1 .. 255"));
  EXPECT_THAT(ErrorAfter(propose, [](auto& wire) { wire.mutable_propose()->clear_info(); }), HasSubstr("propose.info.replicas: 0"));
  Replicate replicate = random.Make<Replicate>();
  replicate.entry.holders = {0};
  EXPECT_EQ(ErrorOf(Encode(replicate)), "replicate.entry.holders: 0 is no node");
  propose.reasons = {1, 2};
  EXPECT_EQ(ErrorOf(Encode(propose)), "propose.reasons: has 2 items; there are 1 nodes");
  propose.reasons = {kMostReason + 1};
  EXPECT_EQ(ErrorOf(Encode(propose)), "propose.reasons: 16777216 is above 16777215");
  Move move = random.Make<Move>();
  move.to = 0;
  EXPECT_EQ(ErrorOf(Encode(move)), "move.to: 0 is no node");
}

TEST(DirectoryWire, ListsThatAreTooLongAreRefused) {
  pb::DirectoryMessage wire;
  for (size_t i = 0; i <= kMaxListed; ++i) wire.mutable_lookup()->add_names();
  EXPECT_EQ(ErrorOf(wire.SerializeAsString()), "lookup.names: has 65537 items; at most 65536 are allowed");
  HandoverAsk ask{.view = 1, .items = std::vector<HandoverItem>(kTestPartitions + 1), .after = {}};
  EXPECT_THAT(ErrorOf(Encode(ask)), StartsWith("handover_ask.items: has 9 items"));
  EXPECT_THAT(ErrorOf(std::string(kMaxMessageBytes + 1, 'x')), StartsWith("message: has 33554433 bytes"));
}

TEST(DirectoryWire, WhatALaterVersionAddsIsPassedOver) {
  const Message sent = Recall{.run = 5, .name = "a"};
  pb::DirectoryMessage wire;
  ASSERT_TRUE(wire.ParseFromString(Encode(sent)));
  wire.mutable_recall()->GetReflection()->MutableUnknownFields(wire.mutable_recall())->AddVarint(999, 1);
  wire.GetReflection()->MutableUnknownFields(&wire)->AddLengthDelimited(1000, "new");
  const absl::StatusOr<Message> got = Decode(wire.SerializeAsString(), kTestPartitions);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_TRUE(SameMessage(sent, *got));
  pb::DirectoryMessage other_kind;
  other_kind.GetReflection()->MutableUnknownFields(&other_kind)->AddLengthDelimited(99, "");
  EXPECT_TRUE(absl::IsUnimplemented(Decode(other_kind.SerializeAsString(), kTestPartitions).status()));
  EXPECT_TRUE(absl::IsUnimplemented(Decode("", kTestPartitions).status()));
}

// Whatever comes: an error or a message, and that is one that can be told on.
TEST(DirectoryWire, BytesThatWereCutOrChangedNeverCrash) {
  RandomMessages random(kSeed);
  std::mt19937_64 dice(kSeed);
  size_t refused = 0;
  const auto check = [&](const std::string& bytes) {
    const absl::StatusOr<Message> got = Decode(bytes, kTestPartitions);
    if (!got.ok()) {
      EXPECT_FALSE(got.status().message().empty());
      ++refused;
      return;
    }
    const absl::StatusOr<Message> again = Decode(Encode(*got), kTestPartitions);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(SameMessage(*got, *again));
  };
  ForEachKind([&]<class Kind>() {
    const std::string bytes = Encode(random.Make<Kind>());
    for (size_t length = 0; length < bytes.size(); ++length) check(bytes.substr(0, length));
    for (int i = 0; i < 300; ++i) {
      std::string changed = bytes;
      changed[dice() % changed.size()] = static_cast<char>(dice());
      check(changed);
    }
  });
  EXPECT_GT(refused, 1000u);
}

TEST(DirectoryWire, ListsOfEntriesAndRecordsAreBulk) {
  RandomMessages random(kSeed);
  size_t bulk = 0;
  ForEachKind([&]<class Kind>() {
    constexpr bool kLists = requires(Kind kind) { kind.entries; } || requires(Kind kind) { kind.records; };
    EXPECT_EQ(IsBulk(random.Make<Kind>()), kLists);
    bulk += kLists;
  });
  EXPECT_EQ(bulk, 3u);
}

}  // namespace
}  // namespace penstock::server::directory
