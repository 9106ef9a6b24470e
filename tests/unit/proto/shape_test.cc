#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <penstock/shape.h>

#include <string>
#include <vector>

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string CreateError(const std::vector<int64_t>& dims) {
  const absl::StatusOr<Shape> shape = Shape::Create(dims);
  return shape.ok() ? "ok" : std::string(shape.status().message());
}

TEST(Shape, ScalarHasOneElement) {
  const Shape shape;
  EXPECT_EQ(shape.rank(), 0);
  EXPECT_EQ(shape.num_elements(), 1);
  EXPECT_EQ(shape.ToString(), "()");
}

TEST(Shape, PrintsAsPython) {
  EXPECT_EQ((Shape{3}).ToString(), "(3,)");
  EXPECT_EQ((Shape{2, 3}).ToString(), "(2, 3)");
}

TEST(Shape, EqualMeansSameRankAndDims) {
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_FALSE((Shape{2, 3}) == (Shape{3, 2}));
  EXPECT_FALSE((Shape{2}) == (Shape{2, 1}));
}

TEST(Shape, ZeroSizedIsLegal) {
  const auto shape = Shape::Create({4, 0, 5});
  ASSERT_TRUE(shape.ok());
  EXPECT_EQ(shape->num_elements(), 0);
  EXPECT_EQ(ByteSize(DType::kF32, *shape).value(), 0u);
}

TEST(Shape, RankStopsAtSixteen) {
  EXPECT_EQ(CreateError(std::vector<int64_t>(16, 1)), "ok");
  EXPECT_THAT(CreateError(std::vector<int64_t>(17, 1)), HasSubstr("rank 17 is above the limit"));
}

TEST(Shape, NegativeDimensionIsNamed) {
  EXPECT_THAT(CreateError({2, -1}), HasSubstr("dimension 1 of (2, -1) is -1"));
}

TEST(Shape, ProductsThatOverflowAreRefused) {
  EXPECT_EQ(CreateError({kMaxElements}), "ok");
  EXPECT_THAT(CreateError({kMaxElements + 1}), HasSubstr("has more than"));
  EXPECT_THAT(CreateError({int64_t{1} << 32, int64_t{1} << 32}), HasSubstr("has more than"));
  EXPECT_THAT(CreateError({int64_t{1} << 62, 4, 4}), HasSubstr("has more than"));
  // The strides of an empty tensor must fit too.
  EXPECT_THAT(CreateError({0, int64_t{1} << 40, int64_t{1} << 40}), HasSubstr("has more than"));
}

TEST(Shape, ConstructorAbortsOnIllegalDims) { EXPECT_DEATH((Shape{-1}), "dimension 0"); }

TEST(ByteSize, CountsItems) {
  EXPECT_EQ(ByteSize(DType::kF32, Shape{2, 3}).value(), 24u);
  EXPECT_EQ(ByteSize(DType::kF4E2M1X2, Shape{2, 3}).value(), 6u);
  EXPECT_EQ(ByteSize(DType::kC128, Shape{kMaxElements}).value(), 16u * uint64_t{kMaxElements});
}

TEST(ByteSize, SixBitElementsMustFillBytes) {
  EXPECT_EQ(ByteSize(DType::kF6E2M3, Shape{4}).value(), 3u);
  EXPECT_EQ(ByteSize(DType::kF6E3M2, Shape{kMaxElements / 4 * 4}).value(),
            static_cast<uint64_t>(kMaxElements / 4) * 3);
  const auto bytes = ByteSize(DType::kF6E2M3, Shape{3});
  EXPECT_THAT(std::string(bytes.status().message()), HasSubstr("does not fill whole bytes"));
}

TEST(ByteSize, RefusesInvalidDType) {
  EXPECT_FALSE(ByteSize(DType::kInvalid, Shape{1}).ok());
  EXPECT_FALSE(ByteSize(static_cast<DType>(200), Shape{1}).ok());
}

TEST(ContiguousStrides, AreInBytesAndCOrder) {
  EXPECT_THAT(ContiguousStrides(DType::kF32, Shape{2, 3, 4}).span(), ElementsAre(48, 16, 4));
  EXPECT_THAT(ContiguousStrides(DType::kF64, Shape{}).span(), ElementsAre());
  EXPECT_THAT(ContiguousStrides(DType::kF32, Shape{2, 0, 4}).span(), ElementsAre(16, 16, 4));
  EXPECT_THAT(ContiguousStrides(DType::kF6E2M3, Shape{2, 4}).span(), ElementsAre(0, 0));
}

}  // namespace
}  // namespace penstock
