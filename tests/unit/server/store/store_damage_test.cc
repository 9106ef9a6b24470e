// What a broken machine or a defect could leave in the catalog: the next node process puts it aside and serves the rest.
#include <gmock/gmock.h>

#include <functional>

#include "server/store/record_check.h"
#include "tests/unit/server/store/store_fixture.h"

namespace penstock::server {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using layout::Record;

class DamageTest : public StoreTest {
 protected:
  layout::CatalogHeader* Header() { return store_->header(); }
  char* Chunk(uint32_t number) { return memory_.segments.at(Header()->chunk_segment[number].load()).mapping.data(); }
  Record* At(layout::RecordRef ref) { return reinterpret_cast<Record*>(Chunk(layout::ChunkOf(ref)) + layout::ByteInChunk(ref)); }

  bool Served(std::string_view name) { return store_->Lookup(name, 0).ok(); }
  std::string Bytes(std::string_view name) {
    const auto held = store_->Hold(name, 0);
    return held.ok() ? std::string(held->data, held->info.nbytes()) : held.status().ToString();
  }
  std::vector<std::string> Warnings() {
    v1::WatchRequest request;
    request.set_from_start(true);
    request.set_limit(1000);
    v1::WatchResponse response;
    store_->Events(request, &response);
    std::vector<std::string> texts;
    for (const v1::Event& event : response.events()) {
      if (event.kind() == v1::Event::WARNING) texts.push_back(event.text());
    }
    return texts;
  }
  // In extents, of a session that lives on.
  Published PutLarge(Session& session, std::string_view name, uint64_t nbytes) {
    CreateSpec spec = Spec(name, nbytes);
    spec.in_arena = false;
    return Put(session, spec).value();
  }
};

struct Harm {
  const char* name;
  void (*harm)(Record*);
  const char* said;
};

class FieldTest : public DamageTest, public ::testing::WithParamInterface<Harm> {};

TEST_P(FieldTest, RecordIsPutAsideAndTheOthersAreServed) {
  auto session = NewSession();
  Put(*session, Spec("before", 300), 'b').value();
  const Published victim = Put(*session, Spec("victim", 300), 'v').value();
  Put(*session, Spec("after", 300), 'a').value();
  const uint64_t block_bytes = Df().block_bytes();
  GetParam().harm(At(victim.record));
  for (int restart = 0; restart < 2; ++restart) {  // it stays aside
    KillAndRestart();
    EXPECT_FALSE(Served("victim"));
    EXPECT_EQ(Bytes("before"), std::string(300, 'b'));
    EXPECT_EQ(Bytes("after"), std::string(300, 'a'));
    EXPECT_EQ(Df().damaged(), 1);
    EXPECT_EQ(Df().tensors(), 2);
    EXPECT_LE(Df().block_bytes(), block_bytes);
    EXPECT_THAT(Warnings(), Contains(HasSubstr(restart == 0 ? GetParam().said : "an earlier process has found damaged")));
  }
  EXPECT_THAT(store_->damage(), Not(IsEmpty()));
  // Its slot is nobody's reference any more, and the name is free.
  EXPECT_EQ(store_->DraftName(victim.record), "");
  session = NewSession();
  EXPECT_TRUE(Put(*session, Spec("victim", 300), 'n').ok());
  EXPECT_EQ(Bytes("victim"), std::string(300, 'n'));
  DeletePrefix("").value();
  EXPECT_EQ(Df().tensors(), 0);
  EXPECT_EQ(Df().drafts(), 0);
}

const Harm kHarms[] = {
    {"retired_but_live", [](Record* r) { r->state.store(3); }, "state: 3"},
    {"free_but_live", [](Record* r) { r->state.store(0); }, "state: 0"},
    {"state", [](Record* r) { r->state.store(77); }, "state: 77"},
    {"name_hash", [](Record* r) { r->name_hash ^= 1; }, "name_hash"},
    {"version_number", [](Record* r) { r->version_number = 0; }, "version_number"},
    {"segment_absent", [](Record* r) { r->segment = 4711; }, "segment: 4711 is not here"},
    {"segment_none", [](Record* r) { r->segment = 0; }, "segment: 0"},
    {"segment_of_catalog", [](Record* r) { r->segment = 1; }, "segment: 1"},
    {"offset_outside", [](Record* r) { r->offset = uint64_t{1} << 60; }, "outside the segment"},
    {"offset_odd", [](Record* r) { r->offset += 3; }, "begins there"},
    {"nbytes", [](Record* r) { r->nbytes += 1; }, "nbytes: 301"},
    {"nbytes_huge", [](Record* r) { r->nbytes = ~uint64_t{0}; }, "nbytes"},
    {"name_bytes_zero", [](Record* r) { r->name_bytes = 0; }, "name_bytes: 0"},
    {"name_bytes", [](Record* r) { r->name_bytes = 60000; }, "name_bytes: 60000"},
    {"name_shorter", [](Record* r) { r->name_bytes = 3; }, "name_hash"},
    {"metadata_bytes", [](Record* r) { r->metadata_bytes = 50000; }, "metadata_bytes: 50000"},
    {"metadata_garbage", [](Record* r) { r->metadata_bytes = 3; }, "metadata"},
    {"dtype", [](Record* r) { r->dtype = 200; }, "dtype: 200"},
    {"dtype_other", [](Record* r) { r->dtype = static_cast<uint8_t>(DType::kF64); }, "nbytes: 300"},
    {"rank", [](Record* r) { r->rank = 255; }, "rank: 255"},
    {"rank_other", [](Record* r) { r->rank = 2; }, "name"},
    {"shape", [](Record* r) { const_cast<int64_t*>(layout::RecordShape(r))[0] = -300; }, "shape"},
    {"name", [](Record* r) { const_cast<char*>(layout::RecordName(r))[1] = '\0'; }, "name"},
    {"flags_private", [](Record* r) { r->flags |= layout::kRecordPrivate; }, "flags"},
    {"flags_fetched", [](Record* r) { r->flags |= layout::kRecordFetched; }, "expires_ns"},
    {"flags_bound", [](Record* r) { r->flags |= layout::kRecordBound; }, "flags"},
    {"flags_directory", [](Record* r) { r->flags |= layout::kRecordDirectory; }, "flags: "},
    {"flags_extent", [](Record* r) { r->flags &= static_cast<uint8_t>(~layout::kRecordKernelImmutable); }, "in an arena"},
    {"expires_ns", [](Record* r) { r->expires_ns.store(layout::kLeaseBase + 5); }, "expires_ns"},
    {"replicas_zero", [](Record* r) { r->replicas = 0; }, "replicas: 0"},
    {"replicas", [](Record* r) { r->replicas = 9999; }, "replicas: 9999"},
    {"cluster_state", [](Record* r) { r->cluster_state.store(9); }, "cluster_state: 9"},
    {"cluster_state_alone", [](Record* r) { r->cluster_state.store(2); }, "cluster_state: 2"},
    {"all_ones", [](Record* r) { std::memset(reinterpret_cast<char*>(r) + 8, 0xff, layout::kRecordFixedBytes - 8); }, "state: 255"},
    {"all_zeros", [](Record* r) { std::memset(reinterpret_cast<char*>(r) + 8, 0, layout::kRecordFixedBytes - 8); }, "state: 0"},
};
INSTANTIATE_TEST_SUITE_P(EachField, FieldTest, ::testing::ValuesIn(kHarms), [](const auto& info) { return std::string(info.param.name); });

// Nothing can tell that these are wrong; the record is served as it says.
TEST_F(DamageTest, WhatMayHaveAnyValueIsBelieved) {
  auto session = NewSession();
  const Published tensor = Put(*session, Spec("x", 300)).value();
  Record* record = At(tensor.record);
  record->version_number = 12345;
  record->version_term = 7;
  record->created_ns = 5;
  record->request_id = 99;
  record->owner_session = 0xffffffff;
  KillAndRestart();
  EXPECT_EQ(store_->Lookup("x", 0)->version_number, 12345);
  EXPECT_THAT(store_->damage(), IsEmpty());
}

// Either may show the other's bytes.
TEST_F(DamageTest, TwoRecordsOfOneBlockAreBothPutAside) {
  auto session = NewSession();
  const Published a = Put(*session, Spec("a", 5000), 'a').value();
  const Published b = Put(*session, Spec("b", 5000), 'b').value();
  Put(*session, Spec("c", 5000), 'c').value();
  At(a.record)->offset = At(b.record)->offset;
  KillAndRestart();
  EXPECT_FALSE(Served("a"));
  EXPECT_FALSE(Served("b"));
  EXPECT_EQ(Bytes("c"), std::string(5000, 'c'));
  EXPECT_EQ(Df().damaged(), 2);
  EXPECT_THAT(Warnings(), Contains(HasSubstr("overlaps another one")));
}

// One wrong record does not take those with it that agree among themselves, whichever is looked at first.
TEST_F(DamageTest, RecordThatStandsAgainstSeveralIsTheWrongOne) {
  for (const bool first : {true, false}) {
    auto session = NewSession();
    Published large;
    if (first) large = Put(*session, Spec("large", 100'000)).value();
    Published small;
    for (int i = 0; i < 20; ++i) small = Put(*session, Spec("small/" + std::to_string(i), 200), static_cast<char>('a' + i)).value();
    if (!first) large = Put(*session, Spec("large", 100'000)).value();
    At(large.record)->offset = At(small.record)->offset / 65536 * 65536;
    KillAndRestart();
    EXPECT_FALSE(Served("large"));
    for (int i = 0; i < 20; ++i) EXPECT_EQ(Bytes("small/" + std::to_string(i)), std::string(200, static_cast<char>('a' + i)));
    EXPECT_EQ(Df().tensors(), 20) << first;
    DeletePrefix("").value();
  }
}

TEST_F(DamageTest, SmallBlockInASlabOfAnotherSizeIsTheWrongOne) {
  auto session = NewSession();
  const Published odd = Put(*session, Spec("odd", 64)).value();
  Published other;
  for (int i = 0; i < 10; ++i) other = Put(*session, Spec("x/" + std::to_string(i), 1000)).value();
  At(odd.record)->offset = At(other.record)->offset / 65536 * 65536 + 60 * 1024;  // no bytes of another one
  KillAndRestart();
  EXPECT_FALSE(Served("odd"));
  EXPECT_EQ(Df().tensors(), 10);
}

// Its true block is not known any more.
TEST_F(DamageTest, OpenViewOfADamagedRecordKeepsItsBytes) {
  auto session = NewSession();
  const Published victim = Put(*session, Spec("victim", 30'000), 'v').value();
  const char* bytes = memory_.segments.at(At(victim.record)->segment).mapping.data() + At(victim.record)->offset;
  Pin(*session, 5, victim);
  At(victim.record)->offset = uint64_t{1} << 50;
  KillAndRestart();
  session = NewSession();
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(Put(*session, Spec("n/" + std::to_string(i), 30'000), 'n').ok());
  EXPECT_EQ(std::string(bytes, 30'000), std::string(30'000, 'v'));
}

TEST_F(DamageTest, DraftsAndRetiredRecordsAreCheckedToo) {
  auto session = NewSession();
  CreateSpec spec = Spec("draft", 5000);
  spec.in_arena = false;
  const Placed draft = Reserve(*session, spec).value();
  const Published old = Put(*session, Spec("x", 100)).value();
  Pin(*session, 0, old);
  Put(*session, Spec("x", 100)).value();
  At(draft.record)->rank = 99;
  At(old.record)->dtype = 99;
  KillAndRestart();
  EXPECT_EQ(Df().damaged(), 2);
  EXPECT_EQ(Df().drafts(), 0);
  EXPECT_EQ(Df().retired(), 0);
  EXPECT_FALSE(store_->Publish(*store_->FindSession(session->id), draft.record, draft.record_seq).ok());
  EXPECT_TRUE(Served("x"));
}

TEST_F(DamageTest, DamagedRecordInAnExtent) {
  auto session = NewSession();
  const Published tensor = PutLarge(*session, "x", 3 << 20);
  PutLarge(*session, "y", 3 << 20);
  At(tensor.record)->flags |= layout::kRecordKernelImmutable;
  KillAndRestart();
  EXPECT_FALSE(Served("x"));
  EXPECT_TRUE(Served("y"));
  EXPECT_THAT(Warnings(), Contains(HasSubstr("in an extent")));
}

TEST_F(DamageTest, SlabWhoseStrideIsBrokenIsPutAsideAndTheOthersAreServed) {
  auto session = NewSession();
  Put(*session, Spec("short", 10), 's').value();
  const Published victim = Put(*session, Spec(std::string(400, 'n'), 10)).value();
  auto* header = reinterpret_cast<layout::ChunkHeader*>(Chunk(0));
  header->slab_stride_units[layout::ByteInChunk(victim.record) / layout::kSlabBytes] = 5000;
  KillAndRestart();
  EXPECT_EQ(Bytes("short"), std::string(10, 's'));
  EXPECT_FALSE(Served(std::string(400, 'n')));
  EXPECT_EQ(Df().damaged(), 1);
  EXPECT_THAT(Warnings(), Contains(HasSubstr("stride 5000")));
  session = NewSession();
  EXPECT_TRUE(Put(*session, Spec(std::string(400, 'n'), 10)).ok());
}

TEST_F(DamageTest, ChunkWhoseHeaderIsBrokenIsPutAside) {
  auto session = NewSession();
  for (int i = 0; i < 40'000; ++i) ASSERT_TRUE(Put(*session, Spec("n/" + std::to_string(i), 0)).ok());
  ASSERT_EQ(Header()->chunk_count.load(), 2);
  std::memset(Chunk(1), 0x55, 64);
  KillAndRestart();
  EXPECT_TRUE(Served("n/0"));
  EXPECT_FALSE(Served("n/39999"));
  EXPECT_THAT(Warnings(), Contains(HasSubstr("catalog chunk 1")));
  session = NewSession();
  EXPECT_TRUE(Put(*session, Spec("n/39999", 10)).ok());
  KillAndRestart();
  EXPECT_TRUE(Served("n/39999"));
}

TEST_F(DamageTest, TableOfChunksIsMadeAnewFromTheChunks) {
  auto session = NewSession();
  for (int i = 0; i < 40'000; ++i) ASSERT_TRUE(Put(*session, Spec("n/" + std::to_string(i), 0)).ok());
  for (const int harm : {0, 1, 2}) {
    auto& table = Header()->chunk_segment;
    if (harm == 0) Header()->chunk_count.store(4'000'000'000);
    if (harm == 1) table[0].store(4711);
    if (harm == 2) table[0].store(table[1].exchange(table[0].load()));
    KillAndRestart();
    EXPECT_EQ(Df().tensors(), 40'000) << harm;
    EXPECT_THAT(Warnings(), Contains(HasSubstr("made anew"))) << harm;
  }
}

TEST_F(DamageTest, HeaderThatIsNoneIsDataLossAndNothingIsChanged) {
  auto session = NewSession();
  Put(*session, Spec("x", 10)).value();
  const size_t segments = memory_.segments.size();
  for (const int field : {0, 1, 2}) {
    layout::CatalogHeader* header = Header();
    const layout::CatalogHeader* kept = header;
    const uint64_t magic = kept->magic;
    const uint32_t version = kept->layout_version, bytes = kept->header_bytes;
    if (field == 0) header->magic = 1;
    if (field == 1) header->layout_version = 99;
    if (field == 2) header->header_bytes = 3;
    warden::NodeContext context = NextNode(&memory_, 77);
    const auto opened = Store::Open(&context, {.memory_bytes = kMemory});
    EXPECT_TRUE(absl::IsDataLoss(opened.status())) << field << opened.status();
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr("catalog header"));
    header->magic = magic;
    header->layout_version = version;
    header->header_bytes = bytes;
  }
  EXPECT_EQ(memory_.segments.size(), segments);
  KillAndRestart();
  EXPECT_TRUE(Served("x"));
}

TEST_F(DamageTest, SessionThatCannotBeReadEndsAndTheOthersGoOn) {
  auto broken = NewSession();
  auto whole = NewSession();
  memory_.sessions.at(broken->id).blob.resize(7);
  KillAndRestart();
  EXPECT_EQ(store_->FindSession(broken->id), nullptr);
  EXPECT_NE(store_->FindSession(whole->id), nullptr);
  EXPECT_THAT(Warnings(), Contains(HasSubstr("is ended")));
  EXPECT_FALSE(memory_.sessions.contains(broken->id));
}

}  // namespace
}  // namespace penstock::server
