#include "client/shards/boxes.h"

#include <gtest/gtest.h>

#include <random>

namespace penstock::client {
namespace {

int64_t Elements(const std::vector<Box>& boxes) {
  int64_t sum = 0;
  for (const Box& box : boxes) sum += box.shape().num_elements();
  return sum;
}

TEST(MissingBoxes, OfNothingIsAllOfIt) {
  const Shape shape({2, 3});
  EXPECT_EQ(Missing(shape, {}), std::vector<Box>{Box::Whole(shape)});
  EXPECT_TRUE(Missing(shape, {Box::Whole(shape)}).empty());
  EXPECT_EQ(Missing(Shape(), {}).size(), 1u);
  EXPECT_TRUE(Missing(Shape({0, 3}), {}).empty());
}

TEST(MissingBoxes, AreWhatIsLeftBesideABox) {
  EXPECT_EQ(Missing(Shape({4, 3}), {{{0, 0}, {2, 3}}}), (std::vector<Box>{{{2, 0}, {2, 3}}}));
  EXPECT_EQ(Missing(Shape({4, 3}), {{{1, 1}, {1, 1}}}).size(), 4u);
}

TEST(MissingBoxes, AreDisjointAndTogetherWithTheOthersAllElements) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 engine(seed);
  const auto random = [&](int64_t count) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(count)); };
  for (int round = 0; round < 200; ++round) {
    const Shape shape({1 + random(5), 1 + random(5), 1 + random(5)});
    std::vector<Box> boxes;
    for (int tries = 0; tries < 6; ++tries) {
      Box box = Box::Whole(shape);
      for (int i = 0; i < 3; ++i) {
        box.offset[i] = random(shape.dim(i));
        box.extent[i] = 1 + random(shape.dim(i) - box.offset[i]);
      }
      bool apart = true;
      for (const Box& other : boxes) apart = apart && CheckApart(box, other).ok();
      if (apart) boxes.push_back(box);
    }
    std::vector<Box> all = Missing(shape, boxes);
    all.insert(all.end(), boxes.begin(), boxes.end());
    EXPECT_EQ(Elements(all), shape.num_elements());
    for (size_t i = 0; i < all.size(); ++i) {
      for (size_t k = 0; k < i; ++k) EXPECT_TRUE(CheckApart(all[i], all[k]).ok());
    }
  }
}

TEST(CheckApart, NamesBothBoxes) {
  const absl::Status status = CheckApart({{0}, {2}}, {{1}, {2}});
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(), "shards [0:2] and [1:3] overlap");
}

}  // namespace
}  // namespace penstock::client
