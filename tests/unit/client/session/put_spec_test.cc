#include "client/put_spec.h"

#include <gtest/gtest.h>

#include <cstring>

namespace penstock::client {
namespace {

TEST(PutTerms, ConditionsBecomeTheWireForm) {
  EXPECT_EQ(PutTerms::Check({})->fields().if_version, layout::kAnyVersion);
  EXPECT_EQ(PutTerms::Check({.if_absent = true})->fields().if_version, 0u);
  EXPECT_EQ(PutTerms::Check({.if_version = 7})->fields().if_version, 7u);
  EXPECT_FALSE(PutTerms::Check({.if_absent = true, .if_version = 7}).ok());
  EXPECT_FALSE(PutTerms::Check({.if_version = layout::kAnyVersion}).ok());
}

TEST(PutTerms, TimeToLiveIsFiniteAndPositive) {
  EXPECT_EQ(PutTerms::Check({.ttl = absl::Seconds(2)})->fields().ttl_ns, 2'000'000'000u);
  EXPECT_FALSE(PutTerms::Check({.ttl = absl::Seconds(-1)}).ok());
  EXPECT_FALSE(PutTerms::Check({.ttl = absl::InfiniteDuration()}).ok());
}

TEST(PutSpec, EncodesTheRequestAsTheRingWantsIt) {
  const PutOptions options{.keep = false, .version = 9, .metadata = {{"k", "value"}}};
  const auto terms = PutTerms::Check(options);
  ASSERT_TRUE(terms.ok());
  const Shape shape{2, 5};
  const auto spec = PutSpec::Check("a/b", DType::kI16, shape, *terms);
  ASSERT_TRUE(spec.ok());
  std::string body(spec->request_bytes(), '\0');
  spec->Encode(body.data(), 192);
  layout::CreateRequest request;
  memcpy(&request, body.data(), sizeof(request));
  EXPECT_EQ(request.nbytes, 20u);
  EXPECT_EQ(request.version, 9u);
  EXPECT_EQ(request.data_offset, 192u);
  EXPECT_EQ(request.flags, 0);
  EXPECT_EQ(request.rank, 2);
  int64_t dims[2];
  memcpy(dims, body.data() + sizeof(request), sizeof(dims));
  EXPECT_EQ(dims[1], 5);
  EXPECT_EQ(body.substr(sizeof(request) + 16, 3), "a/b");
  EXPECT_EQ(body.size(), sizeof(request) + 16 + 3 + 4 + 6);
}

TEST(Gather, NegativeAndZeroStrides) {
  const int32_t values[3] = {1, 2, 3};
  int32_t out[6];
  const ConstTensorRef source{values + 2, DType::kI32, Shape{2, 3}, {0, -4}};
  ASSERT_TRUE(Gather(source, 24, out).ok());
  const int32_t expected[6] = {3, 2, 1, 3, 2, 1};
  EXPECT_EQ(memcmp(out, expected, sizeof(out)), 0);
}

}  // namespace
}  // namespace penstock::client
