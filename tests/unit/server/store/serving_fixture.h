// ServingTest: a store that serves its fd socket and rings in this process, as a node does, for real clients.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>

#include "server/control/control_server.h"
#include "server/ring/ring_server.h"
#include "tests/unit/server/store/store_fixture.h"

namespace penstock::server {

class ServingTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    char directory[] = "/tmp/penstock-test-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    listener_ = Listen(socket_path(), 0600).value();
    service_ = std::make_unique<StoreService>(store_.get(), &recall_.emplace(store_.get()), NodeFacts{});
    rings_ = RingServer::Start(service_.get()).value();
    store_->OnChange([this](uint64_t name_hash) { rings_->Wake(name_hash); });
    changing_ = MutableMemory::Create(store_.get()).value();
    control_ = ControlServer::Start({.store = store_.get(), .rings = rings_.get(), .changing = changing_.get()}, listener_.get(), "unix:none").value();
  }
  void TearDown() override {
    control_->Stop();
    rings_->Stop();
    store_->work().Stop();
    unlink(socket_path().c_str());
    rmdir(directory_.c_str());
  }

  const std::string& directory() const { return directory_; }
  std::string socket_path() const { return directory_ + "/fd.sock"; }

 private:
  std::string directory_;
  UniqueFd listener_;
  std::optional<LeaseRecall> recall_;
  std::unique_ptr<StoreService> service_;
  std::unique_ptr<RingServer> rings_;
  std::unique_ptr<MutableMemory> changing_;
  std::unique_ptr<ControlServer> control_;
};

}  // namespace penstock::server
