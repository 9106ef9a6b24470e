#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <penstock/box.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "proto/strcat.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

using ByteRun = std::pair<uint64_t, uint64_t>;

std::vector<ByteRun> Runs(const Shape& shape, const Box& box, size_t item_bytes) {
  std::vector<ByteRun> runs;
  ForEachRun(shape, box, item_bytes,
             [&](uint64_t offset, uint64_t length) { runs.emplace_back(offset, length); });
  return runs;
}

std::string ParseError(std::string_view text, const Shape& shape) {
  const auto selection = ParseBox(text, shape);
  return selection.ok() ? "ok" : std::string(selection.status().message());
}

TEST(ValidateBox, EdgesAreInside) {
  EXPECT_TRUE(ValidateBox({{0, 0}, {2, 3}}, Shape{2, 3}).ok());
  EXPECT_TRUE(ValidateBox({{2, 3}, {0, 0}}, Shape{2, 3}).ok());
  EXPECT_TRUE(ValidateBox({{}, {}}, Shape{}).ok());
}

TEST(ValidateBox, NamesTheBadDimension) {
  const auto message = [](const Box& box) {
    return std::string(ValidateBox(box, Shape{2, 3}).message());
  };
  EXPECT_THAT(message({{0, 1}, {2, 3}}), HasSubstr("dimension 1 has offset 1 and extent 3"));
  EXPECT_THAT(message({{-1, 0}, {1, 1}}), HasSubstr("dimension 0"));
  EXPECT_THAT(message({{0, 0}, {1, -1}}), HasSubstr("dimension 1"));
  EXPECT_THAT(message({{1, 0}, {INT64_MAX, 1}}), HasSubstr("dimension 0"));
  EXPECT_THAT(message({{0}, {1}}), HasSubstr("for a tensor of rank 2"));
  EXPECT_THAT(message({{0, 0}, {1}}), HasSubstr("extent of rank 1"));
}

TEST(Box, IntersectionIsWhatBothHave) {
  const Box a{{0, 2}, {4, 4}};
  EXPECT_EQ(a.Intersect({{2, 0}, {4, 3}}), (Box{{2, 2}, {2, 1}}));
  EXPECT_EQ(a.Intersect({{4, 2}, {1, 1}}), std::nullopt);  // they only touch
  EXPECT_EQ(a.Intersect({{0}, {4}}), std::nullopt);
  EXPECT_EQ(a.Intersect(a), a);
}

TEST(Box, KnowsWhatIsContiguous) {
  const Shape shape{4, 5, 6};
  EXPECT_TRUE(Box::Whole(shape).IsContiguousIn(shape));
  EXPECT_TRUE((Box{{1, 0, 0}, {2, 5, 6}}).IsContiguousIn(shape));
  EXPECT_TRUE((Box{{1, 2, 0}, {1, 3, 6}}).IsContiguousIn(shape));
  EXPECT_TRUE((Box{{1, 2, 3}, {1, 1, 2}}).IsContiguousIn(shape));
  EXPECT_FALSE((Box{{0, 0, 0}, {2, 5, 5}}).IsContiguousIn(shape));
  EXPECT_FALSE((Box{{0, 0, 0}, {2, 1, 6}}).IsContiguousIn(shape));
  EXPECT_TRUE((Box{{0, 0, 0}, {2, 0, 6}}).IsContiguousIn(shape));  // nothing at all
}

TEST(ForEachRun, MergesFullInnerDimensions) {
  const Shape shape{4, 5, 6};
  EXPECT_THAT(Runs(shape, Box::Whole(shape), 4), ElementsAre(Pair(0, 480)));
  EXPECT_THAT(Runs(shape, {{1, 0, 0}, {2, 5, 6}}, 4), ElementsAre(Pair(120, 240)));
  EXPECT_THAT(Runs(shape, {{1, 2, 0}, {2, 2, 6}}, 4), ElementsAre(Pair(168, 48), Pair(288, 48)));
  EXPECT_THAT(Runs(shape, {{0, 0, 0}, {2, 0, 6}}, 4), ElementsAre());
  EXPECT_THAT(Runs(Shape{}, Box::Whole(Shape{}), 8), ElementsAre(Pair(0, 8)));
}

// Against a reference that knows nothing of merging: every element, by its flat index.
TEST(ForEachRun, CoversExactlyTheBoxInOrder) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(StrCat("seed ", seed));
  std::mt19937 random(seed);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  for (int round = 0; round < 300; ++round) {
    const int rank = static_cast<int>(below(5));
    Dims dims = Dims::Filled(rank, 0);
    Box box{dims, dims};
    for (int i = 0; i < rank; ++i) {
      dims[i] = 1 + below(4);
      box.offset[i] = below(3) == 0 ? 0 : below(dims[i]);
      box.extent[i] = below(2) == 0 ? dims[i] - box.offset[i] : below(dims[i] - box.offset[i] + 1);
    }
    const Shape shape(dims.span());
    ASSERT_TRUE(ValidateBox(box, shape).ok());
    std::vector<uint64_t> want;
    for (int64_t flat = 0; flat < shape.num_elements(); ++flat) {
      int64_t rest = flat;
      bool inside = true;
      for (int i = rank - 1; i >= 0; --i) {
        const int64_t at = rest % dims[i];
        rest /= dims[i];
        inside = inside && at >= box.offset[i] && at < box.offset[i] + box.extent[i];
      }
      if (inside) want.push_back(static_cast<uint64_t>(flat) * 2);
    }
    std::vector<uint64_t> got;
    const std::vector<ByteRun> runs = Runs(shape, box, 2);
    for (const auto& [offset, length] : runs) {
      for (uint64_t byte = offset; byte < offset + length; byte += 2) got.push_back(byte);
    }
    ASSERT_EQ(got, want) << shape.ToString() << " box " << box.ToString();
    ASSERT_EQ(box.IsContiguousIn(shape), runs.size() <= 1)
        << shape.ToString() << " box " << box.ToString();
  }
}

TEST(ParseBox, ReadsSlicesAndIntegers) {
  const Shape shape{20, 5, 6};
  const BoxSelection selection = ParseBox("0:10,:,3", shape).value();
  EXPECT_EQ(selection.box, (Box{{0, 0, 3}, {10, 5, 1}}));
  EXPECT_FALSE(selection.drops(0));
  EXPECT_TRUE(selection.drops(2));
  EXPECT_EQ(selection.result_shape(), (Shape{10, 5}));
}

TEST(ParseBox, HasNumpysMeaning) {
  const Shape shape{10, 4};
  const auto box = [&](std::string_view text) { return ParseBox(text, shape).value().box; };
  EXPECT_EQ(box(""), Box::Whole(shape));
  EXPECT_EQ(box("..."), Box::Whole(shape));
  EXPECT_EQ(box(":"), Box::Whole(shape));
  EXPECT_EQ(box("-3:, -1"), (Box{{7, 3}, {3, 1}}));
  EXPECT_EQ(box(" 2 : 5 "), (Box{{2, 0}, {3, 4}}));
  EXPECT_EQ(box("5:100"), (Box{{5, 0}, {5, 4}}));  // cut to the tensor
  EXPECT_EQ(box("-100:2"), (Box{{0, 0}, {2, 4}}));
  EXPECT_EQ(box("5:2"), (Box{{5, 0}, {0, 4}}));  // empty, not an error
  EXPECT_EQ(box("12:20"), (Box{{10, 0}, {0, 4}}));
  EXPECT_EQ(box("..., 1"), (Box{{0, 1}, {10, 1}}));
  EXPECT_EQ(box("1, ..., 1"), (Box{{1, 1}, {1, 1}}));
  EXPECT_EQ(box("3,"), (Box{{3, 0}, {1, 4}}));
  EXPECT_EQ(box("::1, 1:3:"), (Box{{0, 1}, {10, 2}}));
}

TEST(ParseBox, RefusesWithTheReason) {
  const Shape shape{10, 4};
  EXPECT_THAT(ParseError("10", shape), HasSubstr("out of range for dimension 0 of size 10"));
  EXPECT_THAT(ParseError(":,-5", shape), HasSubstr("out of range for dimension 1 of size 4"));
  EXPECT_THAT(ParseError("::2", shape), HasSubstr("step"));
  EXPECT_THAT(ParseError("::-1", shape), HasSubstr("step"));
  EXPECT_THAT(ParseError("1:2:3:4", shape), HasSubstr("too many colons"));
  EXPECT_THAT(ParseError("1,2,3", shape), HasSubstr("3 indices for a tensor of rank 2"));
  EXPECT_THAT(ParseError("...,...", shape), HasSubstr("more than one"));
  for (const char* text :
       {"a", "1.5", "1 2", "0x1", ",", ",,", "+-1", "--1", "99999999999999999999"}) {
    EXPECT_THAT(ParseError(text, shape), HasSubstr("is not an index")) << text;
  }
  EXPECT_THAT(ParseError("0", Shape{}), HasSubstr("rank 0"));
}

}  // namespace
}  // namespace penstock
