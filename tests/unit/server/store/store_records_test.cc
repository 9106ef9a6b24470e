// StoreRecords and RecordInfo: what the directory sees of the store, and what copies are made from.
#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "server/directory/view.h"
#include "server/remote/node_session.h"
#include "server/store/record_info.h"
#include "tests/unit/server/store/directory_fixture.h"

namespace penstock::server {
namespace {

using directory::HeldRecord;
using directory::OpId;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Names of one partition: enough of them to be listed in parts.
std::vector<std::string> NamesIn(directory::Partition partition, size_t count) {
  std::vector<std::string> names;
  for (int i = 0; names.size() < count; ++i) {
    std::string name = "model/" + std::to_string(i);
    if (directory::PartitionOf(name, DirectoryBook::kPartitions) == partition) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::pair<std::string, uint64_t>> KeysOf(const std::vector<HeldRecord>& records) {
  std::vector<std::pair<std::string, uint64_t>> keys;
  for (const HeldRecord& record : records) keys.emplace_back(record.name, record.op.count);
  return keys;
}

TEST_F(DirectoryStoreTest, ListGivesWholeNamesInOrder) {
  auto session = NewSession();
  const std::vector<std::string> names = NamesIn(7, 3);
  PutLive(*session, Spec(names[2], 10), {1, 5}, {1, 1});
  Prepare(*session, Spec(names[0], 10), {1, 2});
  Prepare(*session, Spec(names[0], 10), {1, 1});
  PutLive(*session, Spec(names[1], 10), {1, 4}, {1, 2});
  Prepare(*session, Spec(names[1], 10), {1, 3});
  Prepare(*session, Spec(NamesIn(8, 1)[0], 10), {1, 6});
  using Keys = std::vector<std::pair<std::string, uint64_t>>;
  const StoreRecords records = Records();
  EXPECT_EQ(KeysOf(records.List(7, "", 100)), (Keys{{names[0], 1}, {names[0], 2}, {names[1], 3}, {names[1], 4}, {names[2], 5}}));
  EXPECT_EQ(KeysOf(records.List(7, "", 1)), (Keys{{names[0], 1}, {names[0], 2}}));
  EXPECT_EQ(KeysOf(records.List(7, "", 2)), (Keys{{names[0], 1}, {names[0], 2}}));
  EXPECT_EQ(KeysOf(records.List(7, names[0], 1)), (Keys{{names[1], 3}, {names[1], 4}}));
  EXPECT_EQ(KeysOf(records.List(7, names[1], 100)), (Keys{{names[2], 5}}));
  EXPECT_THAT(records.List(7, names[2], 100), IsEmpty());
  EXPECT_THAT(records.List(9, "", 100), IsEmpty());
}

TEST_F(DirectoryStoreTest, SinceIsKeptOverARestart) {
  Records().SetSince(41);
  KillAndRestart();
  EXPECT_EQ(Records().since(), 41u);
}

TEST_F(DirectoryStoreTest, RecordsOfAnotherClusterAreQuarantined) {
  auto session = NewSession();
  Records().JoinCluster(100);
  Records().SetSince(5);
  PutLive(*session, Spec("live", 10), {1, 1}, {9, 9});
  Prepare(*session, Spec("prepared", 10), {1, 2});
  Records().JoinCluster(100);
  EXPECT_EQ(StateOf("live", {1, 1}), State::kLive);
  KillAndRestart();
  Records().JoinCluster(200);
  EXPECT_EQ(StateOf("live", {1, 1}), State::kQuarantined);
  EXPECT_EQ(StateOf("prepared", {1, 2}), State::kQuarantined);
  EXPECT_FALSE(store_->Lookup("live", 0).ok());
  EXPECT_EQ(Records().since(), 0u);
  KillAndRestart();
  EXPECT_EQ(store_->header()->cluster_id, 200u);
}

TEST_F(DirectoryStoreTest, CopyOfARecordIsLikeIt) {
  auto session = NewSession();
  CreateSpec spec{.name = "a", .dtype = DType::kF32, .shape = Shape({2, 3, 4}), .nbytes = 96, .ttl_ns = uint64_t{3600} * 1'000'000'000,
                  .keep = false, .replicas = 2, .in_arena = true};
  const std::string metadata = layout::EncodeMetadata({{"step", "7"}, {"who", "me"}});
  spec.metadata = metadata;
  PutLive(*session, spec, {1, 1}, {1, 1}, 'c');
  const HeldRecord original = Records().Find("a", {1, 1}).value();
  EXPECT_EQ(original.replicas, 2);
  EXPECT_TRUE(original.cache);
  EXPECT_EQ(original.nbytes, 96u);

  // As Environment::Fetch does on another node: here it is the same one, under another operation.
  const v1::RecordInfo info = ParseRecordInfo(original.info).value();
  std::string room;
  const CreateSpec copied = SpecOfRecord("b", info, &room).value();
  NodeSession node(store_.get(), "copies");
  const Placed placed = node.Reserve(copied, absl::Seconds(10)).value();
  std::memcpy(placed.block.address, store_->HoldByOp("a", {1, 1})->data, 96);
  const Store::TakenDraft taken = node.Take(placed).value();
  ASSERT_TRUE(store_->Prepare(taken.record, {.op = {2, 2}, .prepared_in = 3, .created_ns = info.created_ns(), .expires_ns = info.expires_ns()}).ok());
  KillAndRestart();
  const HeldRecord copy = Records().Find("b", {2, 2}).value();
  EXPECT_EQ(copy.prepared_in, 3u);
  const v1::RecordInfo again = ParseRecordInfo(copy.info).value();
  EXPECT_EQ(again.dtype(), static_cast<uint32_t>(DType::kF32));
  EXPECT_THAT(again.shape(), ElementsAre(2, 3, 4));
  EXPECT_EQ(again.created_ns(), info.created_ns());
  EXPECT_EQ(again.expires_ns(), info.expires_ns());
  EXPECT_GT(again.expires_ns(), again.created_ns());
  EXPECT_EQ(again.keep(), false);
  EXPECT_EQ(again.replicas(), 2u);
  EXPECT_EQ(again.metadata().at("step"), "7");
  EXPECT_EQ(again.metadata().at("who"), "me");
  EXPECT_EQ(BytesOf("b", {2, 2}), std::string(96, 'c'));

  const v1::TensorInfo told = TensorInfoOf("a", {3, 4}, {.nbytes = 96, .replicas = 2, .cache = true, .info = original.info}).value();
  v1::TensorInfo here = store_->Stat("a", 0).value();
  here.clear_location();
  here.clear_nodes();
  here.mutable_version()->set_term(3);
  here.mutable_version()->set_number(4);
  EXPECT_EQ(told.SerializeAsString().size(), here.SerializeAsString().size());
  EXPECT_EQ(told.ShortDebugString(), here.ShortDebugString());
}

TEST(RecordInfo, BadOnesAreRefusedByTheFieldsName) {
  std::string room;
  v1::RecordInfo good;
  good.set_dtype(static_cast<uint32_t>(DType::kU8));
  good.set_replicas(1);
  ASSERT_TRUE(SpecOfRecord("a", good, &room).ok());
  const auto refusal = [&](auto change) {
    v1::RecordInfo bad = good;
    change(bad);
    return std::string(SpecOfRecord("a", bad, &room).status().message());
  };
  EXPECT_THAT(refusal([](v1::RecordInfo& i) { i.set_dtype(9999); }), HasSubstr("dtype"));
  EXPECT_THAT(refusal([](v1::RecordInfo& i) { i.set_dtype(0); }), HasSubstr("dtype"));
  EXPECT_THAT(refusal([](v1::RecordInfo& i) { i.add_shape(-1); }), HasSubstr("shape"));
  EXPECT_THAT(refusal([](v1::RecordInfo& i) { i.set_replicas(0); }), HasSubstr("replicas"));
  EXPECT_THAT(refusal([](v1::RecordInfo& i) { i.set_replicas(256); }), HasSubstr("replicas"));
  EXPECT_THAT(refusal([](v1::RecordInfo& i) { (*i.mutable_metadata())[""] = "x"; }), HasSubstr("metadata"));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseRecordInfo("\xff\xff\xff").status()));
}

TEST_F(DirectoryStoreTest, ReplicasAreTheDirectorysMatterButNotWithoutBounds) {
  auto session = NewSession();
  for (const uint16_t replicas : {0, 256}) {
    CreateSpec spec = Spec("a", 10);
    spec.replicas = replicas;
    EXPECT_TRUE(absl::IsInvalidArgument(store_->Reserve(*session, spec).status())) << replicas;
  }
}

}  // namespace
}  // namespace penstock::server
