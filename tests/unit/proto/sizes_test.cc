#include "proto/sizes.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

TEST(ParseSize, ReadsUnits) {
  EXPECT_EQ(ParseSize("0").value(), 0u);
  EXPECT_EQ(ParseSize("4096").value(), 4096u);
  EXPECT_EQ(ParseSize("4096B").value(), 4096u);
  EXPECT_EQ(ParseSize("64MiB").value(), uint64_t{64} << 20);
  EXPECT_EQ(ParseSize("1gib").value(), uint64_t{1} << 30);
  EXPECT_EQ(ParseSize("1.5GiB").value(), uint64_t{3} << 29);
  EXPECT_EQ(ParseSize("2 TiB").value(), uint64_t{2} << 40);
  EXPECT_EQ(ParseSize("1kB").value(), 1000u);
  EXPECT_EQ(ParseSize("0.1B").value(), 0u);
  EXPECT_EQ(ParseSize("18446744073709551615").value(), UINT64_MAX);
}

TEST(ParseSize, ReadsAPartOfTheWhole) {
  EXPECT_EQ(ParseSize("80%", 1000).value(), 800u);
  EXPECT_EQ(ParseSize("12.5%", 1000).value(), 125u);
  EXPECT_EQ(ParseSize("100%", UINT64_MAX).value(), UINT64_MAX);
  EXPECT_FALSE(ParseSize("80%").ok());
  EXPECT_FALSE(ParseSize("101%", 1000).ok());
  EXPECT_FALSE(ParseSize("100.1%", 1000).ok());
}

TEST(ParseSize, RefusesTheRest) {
  for (const char* text :
       {"", "MiB", "-1", "1M", "1G", "1 parsec", "1.2.3", "0x10", "1e9", ".", "16384PiB",
        "18446744073709551616", "1GiB ", "0.00000000000000000001GiB"}) {
    const auto size = ParseSize(text);
    EXPECT_EQ(size.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(FormatSize, UsesTheLargestUnit) {
  EXPECT_EQ(FormatSize(0), "0B");
  EXPECT_EQ(FormatSize(1023), "1023B");
  EXPECT_EQ(FormatSize(1024), "1KiB");
  EXPECT_EQ(FormatSize(1536), "1.50KiB");
  EXPECT_EQ(FormatSize(uint64_t{64} << 20), "64MiB");
  EXPECT_EQ(FormatSize(UINT64_MAX), "16.00EiB");
}

TEST(ParseDuration, ReadsUnits) {
  EXPECT_EQ(ParseDuration("250ms").value(), absl::Milliseconds(250));
  EXPECT_EQ(ParseDuration("5s").value(), absl::Seconds(5));
  EXPECT_EQ(ParseDuration("10m").value(), absl::Minutes(10));
  EXPECT_EQ(ParseDuration("2h").value(), absl::Hours(2));
  EXPECT_EQ(ParseDuration("1h30m").value(), absl::Minutes(90));
  EXPECT_EQ(ParseDuration("0").value(), absl::ZeroDuration());
}

TEST(ParseDuration, RefusesTheRest) {
  for (const char* text : {"", "5", "-5s", "inf", "-inf", "5 s", "1d", "s"}) {
    EXPECT_EQ(ParseDuration(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace penstock
