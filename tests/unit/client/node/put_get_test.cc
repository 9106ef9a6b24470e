#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "proto/strcat.h"
#include "tests/unit/client/node/node_process.h"

namespace penstock {
namespace {

using testing::Df;
using testing::Eventually;
using testing::Floats;
using testing::NodeProcess;
using testing::Ref;

class PutGet : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { node_ = new NodeProcess("192MiB"); }
  static void TearDownTestSuite() {
    delete node_;
    node_ = nullptr;
  }
  void SetUp() override { client_ = node_->Connect(); }
  void TearDown() override {
    ASSERT_TRUE(client_->DeletePrefix("").ok());
    client_.reset();
  }

  static bool Shows(const TensorView& view, const std::vector<float>& values) {
    const auto shown = view.As<float>();
    return shown.ok() && std::equal(shown->begin(), shown->end(), values.begin(), values.end());
  }

  static NodeProcess* node_;
  std::unique_ptr<Client> client_;
};
NodeProcess* PutGet::node_ = nullptr;

TEST_F(PutGet, EverySizeComesBackAsItWasPut) {
  // Around the borders: nothing, one, packed, own pages, staged and in an extent.
  for (const size_t count : {0u, 1u, 100u, 1000u, 8191u, 8192u, 262144u, 262145u, 3000000u}) {
    const std::vector<float> values = Floats(count, 0.5f);
    const auto info = client_->Put("a/tensor", Ref(values));
    ASSERT_TRUE(info.ok()) << count << ": " << info.status();
    EXPECT_EQ(info->nbytes, 4 * count);
    const auto view = client_->Get("a/tensor");
    ASSERT_TRUE(view.ok()) << count << ": " << view.status();
    EXPECT_TRUE(Shows(*view, values)) << count;
    EXPECT_EQ(view->version(), info->version);
    EXPECT_EQ(view->info().created, info->created);
    EXPECT_EQ(view->info().immutable, info->immutable) << count;
    EXPECT_EQ(view->info().nodes, info->nodes);
  }
}

TEST_F(PutGet, AnotherClientSeesIt) {
  const std::vector<float> values = Floats(5000, 1);
  ASSERT_TRUE(client_->Put("x", Ref(values)).ok());
  const auto other = node_->Connect();
  const auto view = other->Get("x");
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_TRUE(Shows(*view, values));
}

TEST_F(PutGet, StridedInputIsGathered) {
  const std::vector<float> matrix = Floats(6, 0);  // 2 x 3
  const ConstTensorRef transposed{matrix.data(), DType::kF32, Shape{3, 2}, {4, 12}};
  ASSERT_TRUE(client_->Put("t", transposed).ok());
  const std::vector<float> backwards_big = Floats(600000, 3);
  const ConstTensorRef backwards{backwards_big.data() + 599999, DType::kF32, Shape{600000}, {-4}};
  ASSERT_TRUE(client_->Put("b", backwards).ok());
  EXPECT_TRUE(Shows(*client_->Get("t"), {0, 3, 1, 4, 2, 5}));
  EXPECT_TRUE(
      Shows(*client_->Get("b"), std::vector<float>(backwards_big.rbegin(), backwards_big.rend())));
}

TEST_F(PutGet, ManyAtOnceKeepOrderAndReportEachOne) {
  std::vector<std::vector<float>> data;
  std::vector<std::string> names;
  for (int i = 0; i < 3000; ++i) {
    data.push_back(Floats(i % 700, static_cast<float>(i)));
    names.push_back(i == 1500 ? "bad//name" : "many/" + std::to_string(i % 2500));
  }
  data[2000] = Floats(300000, 7);  // needs an extent
  std::vector<PutRequest> requests;
  for (size_t i = 0; i < data.size(); ++i) requests.push_back({names[i], Ref(data[i])});
  const auto results = client_->PutMany(requests);
  ASSERT_EQ(results.size(), requests.size());
  for (size_t i = 0; i < results.size(); ++i) {
    if (i == 1500) {
      EXPECT_TRUE(absl::IsInvalidArgument(results[i].status()));
    } else {
      ASSERT_TRUE(results[i].ok()) << i << ": " << results[i].status();
      EXPECT_EQ(results[i]->name, names[i]);
    }
  }
  std::vector<GetRequest> gets;
  for (int i = 0; i < 2500; ++i) gets.push_back({names[i == 1500 ? 0 : i], {}});
  const auto views = client_->GetMany(gets);
  for (size_t i = 0; i < views.size(); ++i) {
    if (i == 1500) continue;
    ASSERT_TRUE(views[i].ok()) << i << ": " << views[i].status();
    // The first 500 names were put twice: the later one counts.
    EXPECT_TRUE(Shows(*views[i], data[i < 500 ? i + 2500 : i])) << i;
  }
}

TEST_F(PutGet, PartsOfAnotherNodesTensorsAreReadWithoutTheRest) {
  const NodeProcess home("128MiB", {"--grpc_port=0", "--data_port=0"});
  const auto at_home = home.Connect();
  const NodeProcess here("128MiB", {StrCat("--peers=", penstock::testing::NodeInfo(*at_home).tcp_address())});
  const auto client = here.Connect();
  std::vector<std::string> names;
  std::vector<GetRequest> requests;
  for (int i = 0; i < 40; ++i) {
    names.push_back(StrCat("table/", i));
    ASSERT_TRUE(at_home->Put(names.back(), Ref(Floats(100000, static_cast<float>(i)))).ok());
  }
  ASSERT_TRUE(client->Put("mine", Ref(Floats(1000, 50))).ok());
  for (const std::string& name : names) requests.push_back({name, {.box = Box{{500}, {20}}}});
  requests.push_back({"mine", {.box = Box{{500}, {20}}}});
  requests.push_back({"nobody's", {.box = Box{{500}, {20}}}});
  requests.push_back({names[7], {}});
  requests.push_back({names[8], {.box = Box{{99990}, {20}}}});
  const auto views = client->GetMany(requests);
  ASSERT_EQ(views.size(), 44u);
  for (size_t i = 0; i < 41; ++i) {
    ASSERT_TRUE(views[i].ok()) << i << ": " << views[i].status();
    const std::vector<float> whole = Floats(i < 40 ? 100000 : 1000, i < 40 ? static_cast<float>(i) : 50);
    EXPECT_TRUE(Shows(*views[i], std::vector<float>(whole.begin() + 500, whole.begin() + 520))) << i;
    EXPECT_EQ(views[i]->path(), i == 7 ? "fetch" : i < 40 ? "stream" : "map") << i;  // 7 was wanted whole, too
  }
  EXPECT_TRUE(absl::IsNotFound(views[41].status()));
  ASSERT_TRUE(views[42].ok());
  EXPECT_TRUE(Shows(*views[42], Floats(100000, 7)));
  EXPECT_TRUE(absl::IsInvalidArgument(views[43].status())) << views[43].status();
  EXPECT_LT(penstock::testing::Df(*client).block_bytes(), 3 * 400000u) << "only the one that was wanted whole was copied";
}

TEST_F(PutGet, BadInputNamesTheFieldAndChangesNothing) {
  const std::vector<float> values = Floats(4, 0);
  const auto expect_invalid = [](const absl::Status& status, const char* word) {
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(word));
  };
  expect_invalid(client_->Put("", Ref(values)).status(), "name");
  expect_invalid(client_->Put(".penstock/x", Ref(values)).status(), "reserved");
  expect_invalid(client_->Put("a", {nullptr, DType::kF32, Shape{4}, {}}).status(), "data");
  expect_invalid(client_->Put("a", {values.data(), DType::kInvalid, Shape{4}, {}}).status(), "dtype");
  expect_invalid(client_->Put("a", {values.data(), DType::kF32, Shape{4}, {4, 4}}).status(),
                 "strides");
  expect_invalid(client_->Put("a", Ref(values), {.ttl = absl::ZeroDuration()}).status(), "ttl");
  expect_invalid(client_->Put("a", Ref(values), {.replicas = 0}).status(), "replicas");
  expect_invalid(client_->Put("a", Ref(values), {.metadata = {{"", "x"}}}).status(), "metadata");
  expect_invalid(client_->Get("a/../b").status(), "name");
  float out;
  ASSERT_TRUE(client_->Put("a", Ref(values)).ok());
  expect_invalid(client_->ReadInto("a", &out, 4).status(), "out");
  EXPECT_EQ(Df(*client_).tensors(), 1);
}

TEST_F(PutGet, MetadataAndOptionsComeBack) {
  const std::vector<float> values = Floats(4, 0);
  const Metadata metadata = {{"step", "17"}, {"model", "gpt"}};
  ASSERT_TRUE(client_->Put("m", Ref(values),
                           {.keep = false, .ttl = absl::Hours(1), .metadata = metadata})
                  .ok());
  const auto info = client_->Stat("m");
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->metadata, metadata);
  EXPECT_FALSE(info->keep);
  EXPECT_TRUE(info->expires.has_value());
  EXPECT_EQ(client_->Get("m")->metadata(), metadata);
}

TEST_F(PutGet, ExpiredTensorIsGone) {
  ASSERT_TRUE(client_->Put("brief", Ref(Floats(4, 0)), {.ttl = absl::Milliseconds(30)}).ok());
  EXPECT_TRUE(Eventually([&] { return absl::IsNotFound(client_->Get("brief").status()); }));
  EXPECT_TRUE(Eventually([&] { return Df(*client_).tensors() == 0; }));
}

TEST_F(PutGet, ReadIntoCopiesWholeAndBox) {
  std::vector<float> values(24);
  std::iota(values.begin(), values.end(), 0.f);
  ASSERT_TRUE(client_->Put("r", {values.data(), DType::kF32, Shape{4, 6}, {}}).ok());
  std::vector<float> out(24);
  ASSERT_TRUE(client_->ReadInto("r", out.data(), 96).ok());
  EXPECT_EQ(out, values);
  std::vector<float> part(4);
  ASSERT_TRUE(client_->ReadInto("r", part.data(), 16, {.box = Box{{1, 2}, {2, 2}}}).ok());
  EXPECT_EQ(part, (std::vector<float>{8, 9, 14, 15}));
}

TEST_F(PutGet, ListPagesThroughAPrefix) {
  std::vector<std::string> names;
  for (int i = 0; i < 25; ++i) names.push_back("l/" + std::to_string(100 + i));
  const std::vector<float> value = {1};
  for (const std::string& name : names) ASSERT_TRUE(client_->Put(name, Ref(value)).ok());
  ASSERT_TRUE(client_->Put("other", Ref(value)).ok());
  std::vector<std::string> listed;
  std::string after;
  while (true) {
    const auto page = client_->List("l/", after, 10);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const TensorInfo& info : page->items) listed.push_back(info.name);
    if (!page->more) break;
    after = listed.back();
  }
  EXPECT_EQ(listed, names);
  EXPECT_EQ(client_->LongestPrefix({"l/100", "l/101", "nope", "l/102"}).value(), 2u);
  EXPECT_EQ(client_->DeletePrefix("l/").value(), 25u);
  EXPECT_EQ(client_->List("")->items.size(), 1u);
}

TEST_F(PutGet, ThreadsPutAndGetTheirOwn) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const std::string name = "thread/" + std::to_string(t) + "/" + std::to_string(i % 10);
        const auto values = Floats(i % 50 == 49 ? 300000 : 500, static_cast<float>(t * 1000 + i));
        if (!client_->Put(name, Ref(values)).ok()) ++wrong;
        const auto view = client_->Get(name);
        if (!view.ok() || !Shows(*view, values)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST_F(PutGet, IndexAndCatalogGrowUnderAReader) {
  std::vector<PutRequest> requests;
  std::vector<std::string> names;
  for (int i = 0; i < 60000; ++i) names.push_back("grow/" + std::to_string(i));
  const std::vector<float> value = {42};
  for (const std::string& name : names) requests.push_back({name, Ref(value)});
  const auto reader = node_->Connect();
  ASSERT_TRUE(client_->Put("grow/first", Ref(value)).ok());
  std::atomic<bool> stop{false};
  std::atomic<int> missed{0};
  std::thread looking([&] {
    while (!stop) {
      if (!reader->Get("grow/first").ok()) ++missed;
    }
  });
  for (const auto& result : client_->PutMany(requests)) ASSERT_TRUE(result.ok()) << result.status();
  for (int i = 0; i < 60000; i += 97) ASSERT_TRUE(reader->Get(names[i]).ok()) << i;
  stop = true;
  looking.join();
  EXPECT_EQ(missed.load(), 0);
}

TEST_F(PutGet, FullStoreSaysSoAndGoesOn) {
  const std::vector<float> big = Floats(12 << 20, 0);  // 48 MiB
  int put = 0;
  absl::Status status;
  for (; put < 10; ++put) {
    status = client_->Put("full/" + std::to_string(put), Ref(big)).status();
    if (!status.ok()) break;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << put << " puts: " << status;
  EXPECT_GE(put, 2);
  ASSERT_TRUE(client_->Delete("full/0").value());
  const auto again = client_->Put("full/again", Ref(big));
  EXPECT_TRUE(again.ok()) << again.status();
}

}  // namespace
}  // namespace penstock
