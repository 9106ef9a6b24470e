#include "proto/strcat.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/strings/string_view.h"

namespace penstock {
namespace {

TEST(StrCat, TakesEveryKindOfPiece) {
  EXPECT_EQ(StrCat(std::string("a"), std::string_view("b"), "c", 'd', absl::string_view("e"), 1,
                   uint64_t{2}, true, false, 2.5),
            "abcde12truefalse2.5");
}

TEST(StrCat, WritesExtremeNumbersWhole) {
  EXPECT_EQ(StrCat(std::numeric_limits<int64_t>::min(), " ", std::numeric_limits<uint64_t>::max()),
            "-9223372036854775808 18446744073709551615");
}

TEST(StrCat, KeepsZeroBytesOfViews) { EXPECT_EQ(StrCat(std::string_view("a\0b", 3)).size(), 3u); }

TEST(StrAppend, KeepsWhatWasThere) {
  std::string text = "rank ";
  StrAppend(&text, 17, "!");
  EXPECT_EQ(text, "rank 17!");
}

TEST(Join, PutsTheSeparatorBetweenOnly) {
  EXPECT_EQ(Join(std::vector<int>{}, ", "), "");
  EXPECT_EQ(Join(std::vector<int>{1}, ", "), "1");
  EXPECT_EQ(Join(std::vector<std::string>{"a", "b", "c"}, ", "), "a, b, c");
}

}  // namespace
}  // namespace penstock
