#include "transport/checksum/crc32c.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

namespace penstock {
namespace {

// RFC 3720, appendix B.4, and the check value of the polynomial.
TEST(Crc32c, KnownValues) {
  EXPECT_EQ(Crc32c("123456789", 9), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0').data(), 32), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff').data(), 32), 0x62a8ab43u);
  std::string rising(32, '\0');
  std::iota(rising.begin(), rising.end(), '\0');
  EXPECT_EQ(Crc32c(rising.data(), 32), 0x46dd794eu);
  EXPECT_EQ(Crc32c(nullptr, 0), 0u);
}

TEST(Crc32c, PartsAreExtended) {
  const std::string text(300'000, 'x');
  const uint32_t whole = Crc32c(text.data(), text.size());
  for (const size_t cut : {size_t{0}, size_t{1}, size_t{65536}, size_t{299'999}, text.size()}) {
    EXPECT_EQ(ExtendCrc32c(Crc32c(text.data(), cut), text.data() + cut, text.size() - cut), whole) << cut;
  }
}

TEST(Crc32c, CopyHasTheBytesAndTheirChecksum) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{65535}, size_t{65537}, size_t{1} << 20}) {
    std::string source(bytes + 1, '\0');
    for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<char>(i * 7 + i / 251);
    std::string copy(bytes + 1, 'g');
    EXPECT_EQ(CopyBytesCrc32c(copy.data(), source.data(), bytes), Crc32c(source.data(), bytes)) << bytes;
    EXPECT_EQ(std::memcmp(copy.data(), source.data(), bytes), 0) << bytes;
    EXPECT_EQ(copy[bytes], 'g') << bytes;
  }
}

}  // namespace
}  // namespace penstock
