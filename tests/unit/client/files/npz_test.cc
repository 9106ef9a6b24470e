#include "client/files/npz.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <vector>

#include "client/files/npy_header.h"
#include "client/files/npz_writer.h"
#include "client/files/zip_format.h"
#include "proto/strcat.h"
#include "tests/unit/client/files/file_fixtures.h"

namespace penstock {
namespace {

using ::testing::HasSubstr;

std::string Deflate(std::string_view text) {
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string out(text.size() + 1024, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// A member whose every field a test can bend.
struct Member {
  std::string name;
  std::string packed;
  uint16_t method = zip::kStored;
  uint16_t flags = 0;
  uint32_t crc32 = 0;
  uint32_t size = 0;
  std::string local_name;
  uint32_t local_offset_plus = 0;
};

Member Packed(std::string name, const std::string& content, bool deflated) {
  const auto crc =
      ::crc32(0, reinterpret_cast<const Bytef*>(content.data()), static_cast<uInt>(content.size()));
  return {.name = name,
          .packed = deflated ? Deflate(content) : content,
          .method = deflated ? zip::kDeflated : zip::kStored,
          .crc32 = static_cast<uint32_t>(crc),
          .size = static_cast<uint32_t>(content.size()),
          .local_name = name};
}

std::string Zip(const std::vector<Member>& members, int count_plus = 0) {
  std::string out, directory;
  for (const Member& m : members) {
    const auto offset = static_cast<uint32_t>(out.size()) + m.local_offset_plus;
    std::string shared =
        StrCat(LittleEndian(20, 2), LittleEndian(m.flags, 2), LittleEndian(m.method, 2),
               LittleEndian(0, 4), LittleEndian(m.crc32, 4), LittleEndian(m.packed.size(), 4),
               LittleEndian(m.size, 4));
    StrAppend(&out, LittleEndian(zip::kLocalSignature, 4), shared,
              LittleEndian(m.local_name.size(), 2), LittleEndian(0, 2), m.local_name, m.packed);
    StrAppend(&directory, LittleEndian(zip::kCentralSignature, 4), LittleEndian(20, 2), shared,
              LittleEndian(m.name.size(), 2), LittleEndian(0, 2 + 2 + 2 + 2 + 4),
              LittleEndian(offset, 4), m.name);
  }
  const auto count = static_cast<uint64_t>(static_cast<int>(members.size()) + count_plus);
  return StrCat(out, directory, LittleEndian(zip::kEndSignature, 4), LittleEndian(0, 4),
                LittleEndian(count, 2), LittleEndian(count, 2), LittleEndian(directory.size(), 4),
                LittleEndian(out.size(), 4), LittleEndian(0, 2));
}

std::string NpyOf(std::string_view data) {
  return StrCat(FormatNpyHeader(DType::kU8, Shape{static_cast<int64_t>(data.size())}).value(),
                data);
}
std::string ParseError(const std::string& file, const NpzOptions& options = {}) {
  return MessageOf(NpzFile::Parse(BytesOf(file), options).status());
}
std::string ReadError(const std::string& file) {
  const auto parsed = NpzFile::Parse(BytesOf(file));
  return parsed.ok() ? MessageOf(parsed->Read(0).status()) : "does not even parse";
}

TEST(Npz, ReadsStoredAndDeflatedMembers) {
  const std::string file = Zip({Packed("a.npy", NpyOf("stored"), false),
                                Packed("dir/b.npy", NpyOf(std::string(5000, 'z')), true)});
  const auto npz = NpzFile::Parse(BytesOf(file));
  ASSERT_TRUE(npz.ok()) << npz.status();
  ASSERT_EQ(npz->size(), 2u);
  EXPECT_EQ(npz->name(0), "a");
  EXPECT_EQ(npz->name(1), "dir/b");
  EXPECT_EQ(TextOf(npz->Read(0).value().data()), "stored");
  const NpyArray b = npz->Read(1).value();
  EXPECT_EQ(TextOf(b.data()), std::string(5000, 'z'));
  EXPECT_EQ(b.shape(), Shape{5000});
}

TEST(Npz, EmptyArchiveHasNoArrays) {
  EXPECT_EQ(ParseError(Zip({})), "ok");
  EXPECT_THAT(ParseError(""), HasSubstr("no end record"));
  EXPECT_THAT(ParseError("PK"), HasSubstr("no end record"));
}

TEST(Npz, WhatItWritesIsReadBack) {
  const TempDir dir;
  auto writer = NpzWriter::Create(dir / "x.npz");
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(writer->Add("a", DType::kF32, Shape{2}, BytesOf("12345678")).ok());
  ASSERT_TRUE(writer->Add("m\xC3\xBC/b", DType::kI8, Shape{0}, {}).ok());
  EXPECT_THAT(MessageOf(writer->Add("a", DType::kI8, Shape{0}, {})), HasSubstr("comes twice"));
  EXPECT_THAT(MessageOf(writer->Add("c", DType::kBF16, Shape{0}, {})),
              HasSubstr("use safetensors"));
  EXPECT_THAT(MessageOf(writer->Add("../c", DType::kI8, Shape{0}, {})), HasSubstr("part \"..\""));
  EXPECT_THAT(MessageOf(writer->Add("c", DType::kI8, Shape{2}, BytesOf("x"))),
              HasSubstr("needs 2"));
  ASSERT_TRUE(writer->Finish().ok());
  const auto npz = NpzFile::Open(dir / "x.npz");
  ASSERT_TRUE(npz.ok()) << npz.status();
  ASSERT_EQ(npz->size(), 2u);
  EXPECT_EQ(TextOf(npz->Read(0).value().data()), "12345678");
  EXPECT_EQ(npz->name(1), "m\xC3\xBC/b");
  EXPECT_EQ(npz->Read(1).value().shape(), Shape{0});
  EXPECT_EQ(dir.count(), 1u);
}

TEST(Npz, DamageIsSeen) {
  Member stored = Packed("a.npy", NpyOf("stored"), false);
  stored.packed.back() = 'X';
  EXPECT_THAT(ReadError(Zip({stored})), HasSubstr("checksum is wrong"));
  Member deflated = Packed("a.npy", NpyOf("deflated"), true);
  deflated.crc32 ^= 1;
  EXPECT_THAT(ReadError(Zip({deflated})), HasSubstr("checksum is wrong"));
  Member garbage = Packed("a.npy", NpyOf("deflated"), true);
  garbage.packed.assign(garbage.packed.size(), '\xFF');
  EXPECT_THAT(ReadError(Zip({garbage})), HasSubstr("does not unpack"));
  const std::string not_npy = "hello";
  EXPECT_THAT(ReadError(Zip({Packed("a.npy", not_npy, false)})),
              HasSubstr("member \"a.npy\": npy:"));
}

TEST(Npz, UnpackedSizeMustBeTheOnePromised) {
  const std::string content = NpyOf(std::string(300, 'a'));
  for (const int change : {-1, 1, -200, 200}) {
    Member member = Packed("a.npy", content, true);
    member.size = static_cast<uint32_t>(static_cast<int>(member.size) + change);
    EXPECT_THAT(ReadError(Zip({member})), HasSubstr("does not unpack to")) << change;
  }
  Member trailing = Packed("a.npy", content, true);
  trailing.packed += "junk";
  EXPECT_THAT(ReadError(Zip({trailing})), HasSubstr("does not unpack to"));
  Member cut = Packed("a.npy", content, true);
  cut.packed.pop_back();
  EXPECT_THAT(ReadError(Zip({cut})), HasSubstr("does not unpack to"));
}

TEST(Npz, BombsAreRefusedBeforeTheyUnpack) {
  Member liar = Packed("a.npy", NpyOf("x"), true);
  liar.size = 0xFFFFFFF0;
  EXPECT_THAT(ParseError(Zip({liar})), HasSubstr("promises 4294967280 bytes"));
  const std::string content = NpyOf(std::string(6000, '\0'));
  const std::string file = Zip({Packed("a.npy", content, true), Packed("b.npy", content, true)});
  EXPECT_EQ(ParseError(file, {.max_inflated_bytes = 2 * content.size()}), "ok");
  EXPECT_THAT(ParseError(file, {.max_inflated_bytes = 2 * content.size() - 1}),
              HasSubstr("member \"b.npy\" the file unpacks to more than"));
}

TEST(Npz, OverlappingMembersAreRefused) {
  Member a = Packed("a.npy", NpyOf("xx"), false);
  Member b = a;
  b.name = "b.npy";
  // The directory's second entry points to the first member.
  b.local_offset_plus = static_cast<uint32_t>(-(30 + 5 + a.packed.size()));
  EXPECT_THAT(ParseError(Zip({a, b})), HasSubstr("another name"));
  // A whole local header hidden inside the bytes of another member.
  Member inner = Packed("b.npy", NpyOf("yy"), false);
  const std::string hidden = Zip({inner});
  Member outer = Packed("a.npy", hidden, false);
  inner.local_offset_plus = static_cast<uint32_t>(-(static_cast<int>(outer.packed.size())));
  EXPECT_THAT(ParseError(Zip({outer, inner})), HasSubstr("overlaps"));
}

TEST(Npz, MembersMustBeSoundAndPlain) {
  const std::string npy = NpyOf("xx");
  const auto error = [&](auto bend) {
    Member member = Packed("a.npy", npy, false);
    bend(member);
    return ParseError(Zip({member}));
  };
  EXPECT_EQ(error([](Member&) {}), "ok");
  EXPECT_THAT(error([](Member& m) { m.flags = zip::kFlagEncrypted; }), HasSubstr("is encrypted"));
  EXPECT_THAT(error([](Member& m) { m.method = 12; }), HasSubstr("method 12 is not read"));
  EXPECT_THAT(error([](Member& m) { m.size += 1; }), HasSubstr("is stored, yet has"));
  EXPECT_THAT(error([](Member& m) { m.local_name = "b.npy"; }), HasSubstr("another name"));
  EXPECT_THAT(error([](Member& m) { m.local_offset_plus = 1; }), HasSubstr("no local header at 1"));
  EXPECT_THAT(error([](Member& m) { m.local_offset_plus = 1 << 20; }),
              HasSubstr("outside the file"));
  EXPECT_THAT(error([](Member& m) { m.size = 0xFFFFFFFF; }), HasSubstr("zip64 field is missing"));
  const auto named = [&](const std::string& name) {
    return ParseError(Zip({Packed(name, npy, false)}));
  };
  EXPECT_THAT(named("a.txt"), HasSubstr("not a .npy file"));
  EXPECT_THAT(named(".npy"), HasSubstr("not a .npy file"));
  EXPECT_THAT(named("../a.npy"), HasSubstr("part \"..\""));
  EXPECT_THAT(named("/a.npy"), HasSubstr("empty part"));
  EXPECT_THAT(ParseError(Zip({Packed("a.npy", npy, false), Packed("a.npy", npy, false)})),
              HasSubstr("comes twice"));
  EXPECT_THAT(ParseError(Zip({Packed("a.npy", npy, false)}, 1)), HasSubstr("fewer entries"));
  EXPECT_THAT(ParseError(Zip({Packed("a.npy", npy, false)}, -1)), HasSubstr("more bytes"));
}

// Every single-byte change and every cut of a sound file: an error or the same arrays, never a
// crash.
TEST(Npz, AnyChangedByteIsHarmless) {
  const TempDir dir;
  auto writer = NpzWriter::Create(dir / "x.npz");
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer->Add("a", DType::kU8, Shape{2}, BytesOf("xy")).ok());
  ASSERT_TRUE(writer->Finish().ok());
  for (const std::string& sound :
       {Slurp(dir / "x.npz"), Zip({Packed("a.npy", NpyOf(std::string(50, 'q')), true)})}) {
    ASSERT_EQ(ReadError(sound), "ok");
    for (size_t at = 0; at < sound.size(); ++at) {
      for (const int flip : {1, 0x80, 0xFF}) {
        std::string file = sound;
        file[at] = static_cast<char>(file[at] ^ flip);
        const auto npz = NpzFile::Parse(BytesOf(file), {.max_inflated_bytes = 1 << 20});
        if (npz.ok() && npz->size() > 0) (void)npz->Read(0);
      }
    }
    for (size_t size = 0; size < sound.size(); ++size) {
      EXPECT_NE(ParseError(sound.substr(0, size)), "ok") << size;
    }
  }
}

}  // namespace
}  // namespace penstock
