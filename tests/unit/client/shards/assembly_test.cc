#include "client/shards/assembly.h"

#include <gtest/gtest.h>

namespace penstock::client {
namespace {

ShardSpec Spec(const Box& box, uint64_t version = 0) {
  PutOptions options;
  options.version = version;
  options.metadata = {{"k", "v"}};
  options.ttl = absl::Seconds(5);
  return {.dtype = DType::kF32, .whole = Shape({4, 3}), .box = box, .options = options};
}
const Box kUpper{{0, 0}, {2, 3}}, kLower{{2, 0}, {2, 3}};

TEST(AssemblyOfShards, IsCoveredByTheLastBox) {
  Assembly assembly = Begin(Spec(kUpper));
  EXPECT_FALSE(Covers(assembly, kUpper));
  EXPECT_EQ(MissingWith(assembly, kUpper), std::vector<Box>{kLower});
  Add(kUpper, "u", "s", &assembly);
  EXPECT_TRUE(Covers(assembly, kLower));
  EXPECT_EQ(*Meet(assembly, kLower), nullptr);
  EXPECT_EQ((*Meet(assembly, kUpper))->id(), "u");
  EXPECT_TRUE(absl::IsInvalidArgument(Meet(assembly, {{1, 0}, {2, 3}}).status()));
}

TEST(AssemblyOfShards, RefusesWhatDoesNotAgree) {
  const Assembly assembly = Begin(Spec(kUpper));
  EXPECT_TRUE(CheckAgrees(Spec(kLower), assembly).ok());
  const auto refused = [&](auto change) {
    ShardSpec spec = Spec(kLower);
    change(spec);
    return absl::IsInvalidArgument(CheckAgrees(spec, assembly));
  };
  EXPECT_TRUE(refused([](ShardSpec& s) { s.dtype = DType::kF16; }));
  EXPECT_TRUE(refused([](ShardSpec& s) { s.whole = Shape({4, 4}); }));
  EXPECT_TRUE(refused([](ShardSpec& s) { s.options.keep = false; }));
  EXPECT_TRUE(refused([](ShardSpec& s) { s.options.ttl.reset(); }));
  EXPECT_TRUE(refused([](ShardSpec& s) { s.options.metadata.clear(); }));
}

TEST(AssemblyOfShards, IsOverOnceTheNameIsAtItsVersion) {
  Assembly assembly = Begin(Spec(kUpper));
  EXPECT_FALSE(IsOver(assembly, 7));
  assembly.set_number(7);
  EXPECT_FALSE(IsOver(assembly, 6));
  EXPECT_TRUE(IsOver(assembly, 7));
  EXPECT_FALSE(IsOver(assembly, 0));
  assembly.set_number(kAnyNumber);
  EXPECT_TRUE(IsOver(assembly, 0));
  EXPECT_TRUE(IsOver(Begin(Spec(kUpper, 3)), 4));
  EXPECT_FALSE(IsOver(Begin(Spec(kUpper, 3)), 2));
}

TEST(AssemblyOfShards, LosesBoxesAndGoesWithTheLast) {
  v1::ShardIndex index;
  for (const uint64_t version : {uint64_t{0}, uint64_t{3}}) {
    Assembly* assembly = index.add_assemblies();
    *assembly = Begin(Spec(kUpper, version));
    Add(kUpper, version == 0 ? "a" : "b", "s", assembly);
    Add(kLower, version == 0 ? "c" : "d", "s", assembly);
  }
  const Assembly before = *Find(index, 3);
  Remove({"a", "c", "d"}, &index);
  EXPECT_EQ(Find(index, 0), nullptr);
  ASSERT_NE(Find(index, 3), nullptr);
  EXPECT_EQ(Find(index, 3)->boxes_size(), 1);
  EXPECT_FALSE(HasSameBoxes(before, *Find(index, 3)));
  EXPECT_TRUE(HasSameBoxes(before, before));
  EXPECT_TRUE(SharesBoxes(before, *Find(index, 3)));
  EXPECT_FALSE(SharesBoxes(before, Begin(Spec(kUpper, 3))));
}

TEST(AssemblyOfShards, TellsOfAFewBoxesOnly) {
  EXPECT_EQ(Text({kUpper}), "[0:2, 0:3]");
  EXPECT_EQ(Text({kUpper, kLower, kUpper, kLower, kUpper, kLower}), "[0:2, 0:3], [2:4, 0:3], [0:2, 0:3], [2:4, 0:3] and 2 more");
}

}  // namespace
}  // namespace penstock::client
