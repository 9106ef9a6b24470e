// Who may tell this node something, and what: DirectoryLink's refusals, and TLS.
#include <grpcpp/grpcpp.h>

#include <cstdlib>
#include <fstream>

#include "directory.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/directory_link/wire.h"
#include "tests/unit/server/directory_link/link_node.h"

namespace penstock::server {
namespace {

namespace pb = v1::directory;
using ::testing::HasSubstr;

// A stream that is not made by DirectoryLink: says what it is told.
class Stranger {
 public:
  explicit Stranger(const std::string& address)
      : stub_(pb::Directory::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))), stream_(stub_->Tell(&context_)) {}

  void Hello(uint64_t from, uint64_t to, const std::string& cluster) {
    pb::DirectoryBatch batch;
    batch.mutable_hello()->set_from(from);
    batch.mutable_hello()->set_to(to);
    batch.mutable_hello()->set_cluster(cluster);
    stream_->Write(batch);
  }
  void Say(const std::vector<std::string>& messages) {
    pb::DirectoryBatch batch;
    for (const std::string& message : messages) batch.add_messages(message);
    stream_->Write(batch);
  }
  bool Accepted() {
    pb::TellResponse response;
    return stream_->Read(&response);
  }
  grpc::Status End() {
    stream_->WritesDone();
    return stream_->Finish();
  }

 private:
  grpc::ClientContext context_;
  const std::unique_ptr<pb::Directory::Stub> stub_;
  const std::unique_ptr<grpc::ClientReaderWriter<pb::DirectoryBatch, pb::TellResponse>> stream_;
};

TEST(DirectoryRefusal, ANodeThatIsNotMeantTakesNothing) {
  LinkNode a({.id = 1}), b({.id = 2});
  a.link().SetPeers({{5, b.peer().address}});
  a.link().Send(5, Numbered(1));
  ASSERT_TRUE(Eventually([&] { return !a.Of(5).error.empty(); }));
  EXPECT_EQ(a.Of(5).error, "hello.to: this is node 0000000000000002, not 0000000000000005");
  EXPECT_FALSE(a.Of(5).connected);
  EXPECT_EQ(a.link().Tell().messages_sent, 0u) << "nothing is told before the hello was taken";
  EXPECT_GT(b.link().Tell().streams_refused, 0u);
  EXPECT_EQ(b.link().Tell().last_refused,
            "stream of node 0000000000000001, session 0000000000000001: hello.to: this is node 0000000000000002, not 0000000000000005");
  EXPECT_TRUE(b.told().empty());
}

TEST(DirectoryRefusal, WhenTheAddressHasItsRightNodeAgainThatOneHears) {
  LinkNode a({.id = 1});
  auto stranger = std::make_unique<LinkNode>(LinkNode::Options{.id = 5});
  const int port = stranger->port();
  a.link().SetPeers({{2, stranger->peer().address}});
  a.link().Send(2, Numbered(1));
  ASSERT_TRUE(Eventually([&] { return stranger->link().Tell().streams_refused >= 2; })) << "it asks again";
  stranger.reset();
  LinkNode b({.id = 2, .port = port});
  a.link().Send(2, Numbered(2));
  EXPECT_TRUE(b.Hears(2));
}

TEST(DirectoryRefusal, AnotherClusterIsRefused) {
  LinkNode a({.id = 1, .cluster = "blue"}), b({.id = 2, .cluster = "green"});
  a.link().SetPeers({b.peer()});
  a.link().Send(2, Numbered(1));
  ASSERT_TRUE(Eventually([&] { return !a.Of(2).error.empty(); }));
  EXPECT_EQ(a.Of(2).error, "hello.cluster: this node is of cluster \"green\", not of \"blue\"");
  EXPECT_TRUE(b.told().empty());
}

TEST(DirectoryRefusal, AStreamMustBeginWithAHelloOfAnotherNode) {
  LinkNode b({.id = 2});
  Stranger silent(b.peer().address);
  silent.Say({directory::Encode(Numbered(1))});
  EXPECT_FALSE(silent.Accepted());
  EXPECT_EQ(silent.End().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  for (const uint64_t from : {uint64_t{0}, uint64_t{2}}) {
    Stranger nobody(b.peer().address);
    nobody.Hello(from, 2, "c");
    EXPECT_FALSE(nobody.Accepted());
    EXPECT_EQ(nobody.End().error_message(), "hello.from: must be another node's id");
  }
  EXPECT_TRUE(b.told().empty());
  EXPECT_EQ(b.link().Tell().streams_refused, 3u);
}

TEST(DirectoryRefusal, TheSocketForLocalClientsIsNoWayIn) {
  LinkNode b({.id = 2});
  Stranger local("unix:" + b.socket());
  local.Hello(1, 2, "c");
  EXPECT_FALSE(local.Accepted());
  EXPECT_EQ(local.End().error_code(), grpc::StatusCode::PERMISSION_DENIED);
}

TEST(DirectoryRefusal, ABadMessageSpoilsNoOther) {
  LinkNode b({.id = 2});
  Stranger node(b.peer().address);
  node.Hello(1, 2, "c");
  ASSERT_TRUE(node.Accepted());
  node.Say({directory::Encode(Numbered(1)), "junk", directory::Encode(directory::Refused{.partition = 99, .promised = 1}), directory::Encode(Numbered(2))});
  node.Say({directory::Encode(Numbered(3))});
  ASSERT_TRUE(b.Hears(3));
  EXPECT_EQ(b.numbers(), (std::vector<uint64_t>{1, 2, 3}));
  EXPECT_EQ(b.link().Tell().messages_refused, 2u);
  EXPECT_EQ(b.link().Tell().messages_received, 3u);
  EXPECT_EQ(b.link().Tell().last_refused, "message of node 0000000000000001: refused.partition: 99 is none of the 2 partitions");
  EXPECT_TRUE(node.End().ok());
}

// Signed by itself: it is its own CA.
TlsFiles Certificate(const std::string& directory, const std::string& name) {
  const TlsFiles files{.cert = directory + "/" + name + ".pem", .key = directory + "/" + name + ".key", .ca = directory + "/" + name + ".pem"};
  const std::string command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=" + name +
                              " -addext subjectAltName=IP:127.0.0.1 -keyout " + files.key + " -out " + files.cert + " 2>/dev/null";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  return files;
}

TEST(DirectoryRefusal, WithTlsOnlyThoseWithACertificateAreHeard) {
  std::string name = testing::TempDir() + "penstock_link_tls_XXXXXX";
  const std::string directory = mkdtemp(name.data());
  const TlsFiles ours = Certificate(directory, "ours"), theirs = Certificate(directory, "theirs");
  {
    LinkNode b({.id = 2, .tls = ours}), good({.id = 1, .tls = ours}), plain({.id = 3}), forged({.id = 4, .tls = theirs});
    for (LinkNode* node : {&good, &plain, &forged}) {
      node->link().SetPeers({b.peer()});
      node->link().Send(2, Numbered(node->id()));
    }
    ASSERT_TRUE(b.Hears(1));
    for (LinkNode* node : {&plain, &forged}) {
      ASSERT_TRUE(Eventually([&] { return !node->Of(2).error.empty(); }));
      EXPECT_FALSE(node->Of(2).connected);
    }
    EXPECT_EQ(b.numbers(), std::vector<uint64_t>{1});
    EXPECT_TRUE(good.Of(2).connected);
  }
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace penstock::server
