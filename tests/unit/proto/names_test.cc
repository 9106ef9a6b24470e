#include "proto/names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

namespace penstock {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(Utf8, AcceptsTheEdgesOfEachLength) {
  for (const char* text :
       {"", "a", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
        "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(IsValidUtf8(text)) << testing::PrintToString(text);
  }
}

TEST(Utf8, RefusesWhatIsNotWellFormed) {
  for (const char* text :
       {"\x80", "\xC0\xAF", "\xC1\xBF", "\xC2", "\xC2\x41", "\xE0\x9F\xBF", "\xED\xA0\x80",
        "\xED\xBF\xBF", "\xE2\x82", "\xE2\x82\x41", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xFF", "\xF0\x9F\x98"}) {
    EXPECT_FALSE(IsValidUtf8(text)) << testing::PrintToString(text);
    EXPECT_THAT(Message(ValidateName(text)), HasSubstr("not valid UTF-8")) << text;
  }
}

TEST(ValidateName, AcceptsPaths) {
  for (const char* name : {"a", "model/wte", "a/.hidden/..b/...", "m\xC3\xBCller/\xE9\x87\x8D",
                           "a b", ".penstock", ".penstock/x", "\xC2\xA0"}) {
    EXPECT_TRUE(ValidateName(name).ok()) << name;
  }
  EXPECT_TRUE(ValidateName(std::string(512, 'x')).ok());
}

TEST(ValidateName, RefusesWithTheRule) {
  EXPECT_THAT(Message(ValidateName("")), HasSubstr("is empty"));
  EXPECT_THAT(Message(ValidateName(std::string(513, 'x'))),
              HasSubstr("has 513 bytes; at most 512"));
  for (const char* name : {"/a", "a//b", "a/", "/"}) {
    EXPECT_THAT(Message(ValidateName(name)), HasSubstr("empty part")) << name;
  }
  for (const char* name : {".", "..", "a/./b", "a/..", "../a"}) {
    EXPECT_THAT(Message(ValidateName(name)), HasSubstr("has a part \".")) << name;
  }
  for (const std::string& name :
       {std::string("a\0b", 3), std::string("a\nb"), std::string("\x1F"), std::string("\x7F"),
        std::string("a\xC2\x85"), std::string("\xC2\x9F")}) {
    EXPECT_THAT(Message(ValidateName(name)), HasSubstr("control character")) << name;
  }
}

TEST(ValidateName, MessageIsPrintableWhateverTheName) {
  EXPECT_EQ(Message(ValidateName("a\n\xFF")),
            "name: \"a\\x0a\\xff\" has a control character at byte 1");
}

TEST(ValidateUserName, KeepsTheReservedPartFree) {
  EXPECT_THAT(Message(ValidateUserName(".penstock/x")), HasSubstr("reserved"));
  EXPECT_THAT(Message(ValidateUserName(".penstock")), HasSubstr("reserved"));
  EXPECT_TRUE(ValidateUserName(".penstocks/x").ok());
  EXPECT_TRUE(ValidateUserName("a/.penstock/x").ok());
  EXPECT_FALSE(ValidateUserName("").ok());
}

TEST(ValidatePrefix, AcceptsEveryBeginningOfANameAndNothingElse) {
  const std::string name = "a/..b/\xE9\x87\x8D";
  for (size_t n = 0; n <= 6; ++n) EXPECT_TRUE(ValidatePrefix(name.substr(0, n)).ok()) << n;
  EXPECT_FALSE(ValidatePrefix("/").ok());
  EXPECT_FALSE(ValidatePrefix("a//").ok());
  EXPECT_FALSE(ValidatePrefix("a/../").ok());
  EXPECT_FALSE(ValidatePrefix("a\n").ok());
  EXPECT_FALSE(ValidatePrefix(std::string(513, 'x')).ok());
}

TEST(ValidateMetadata, CountsKeysAndValuesTogether) {
  std::map<std::string, std::string> metadata{{"k", std::string(16 * 1024 - 1, 'v')}};
  EXPECT_TRUE(ValidateMetadata(metadata).ok());
  metadata["j"] = "";
  EXPECT_THAT(Message(ValidateMetadata(metadata)), HasSubstr("have 16385 bytes; at most 16384"));
}

TEST(ValidateMetadata, RefusesBadKeysAndValues) {
  using Map = std::map<std::string, std::string>;
  EXPECT_TRUE(ValidateMetadata(Map{}).ok());
  EXPECT_THAT(Message(ValidateMetadata(Map{{"", "v"}})), HasSubstr("key is empty"));
  EXPECT_THAT(Message(ValidateMetadata(Map{{"\xFF", "v"}})), HasSubstr("not valid UTF-8"));
  EXPECT_THAT(Message(ValidateMetadata(Map{{"k", "\xFF"}})), HasSubstr("value"));
  const std::pair<std::string_view, std::string_view> twice[] = {{"k", "1"}, {"j", ""}, {"k", "2"}};
  EXPECT_THAT(Message(ValidateMetadata(absl::Span<const MetadataItem>(twice))),
              HasSubstr("comes twice"));
}

}  // namespace
}  // namespace penstock
