// A node of a cluster as far as its DirectoryLink goes: the link, the gRPC server that others reach it by, and what it was told.
#pragma once

#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "server/directory/view.h"
#include "server/directory_link/directory_link.h"
#include "server/rpc/grpc_server.h"
#include "transport/stream/tcp_socket.h"

namespace penstock::server {

constexpr std::chrono::seconds kPatience{20};  // for what must happen
constexpr uint32_t kLinkPartitions = 2;

// Polls: what is waited for happens on gRPC's threads.
inline bool Eventually(const std::function<bool()>& happened) {
  std::mutex mutex;
  std::condition_variable never;
  std::unique_lock lock(mutex);
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!happened()) {
    if (std::chrono::steady_clock::now() > end) return false;
    never.wait_for(lock, std::chrono::milliseconds(1));
  }
  return true;
}

// A small message with a number in it.
inline directory::Message Numbered(uint64_t number) { return directory::Collect{.partition = 1, .term = number, .upto = {}}; }

// One that goes by the other stream.
inline directory::Message Bulk(uint64_t number, size_t bytes) {
  directory::Push push;
  push.view = number;
  push.partition = directory::PartitionOf("n", kLinkPartitions);
  for (size_t done = 0; done < bytes; done += 32 * 1024) {
    directory::Entry entry;
    entry.SetText("n", std::string(32 * 1024, 'x'));
    push.entries.push_back(std::move(entry));
  }
  return push;
}

class LinkNode {
 public:
  struct Options {
    directory::NodeId id = 0;
    uint64_t session = 1;
    std::string cluster = "c";
    int port = 0;
    TlsFiles tls = {};
    size_t queue_bytes = size_t{32} << 20;
    // Called for what comes, after it was noted.
    std::function<void(directory::NodeId from, const directory::Message& message)> then = {};
  };

  explicit LinkNode(Options options) : options_(std::move(options)) {
    std::string name = testing::TempDir() + "penstock_link_XXXXXX";
    directory_ = mkdtemp(name.data());
    link_ = std::make_unique<DirectoryLink>(
        DirectoryLinkOptions{.self = options_.id, .session = options_.session, .cluster = options_.cluster, .partition_count = kLinkPartitions,
                             .tls = options_.tls, .queue_bytes = options_.queue_bytes},
        [this](directory::NodeId from, std::vector<directory::Message> messages) { Note(from, std::move(messages)); });
    auto server = GrpcServer::Start(nullptr, nullptr, {.unix_socket = socket(), .port = options_.port, .tls = options_.tls, .directory = link_.get()});
    EXPECT_TRUE(server.ok()) << server.status();
    if (server.ok()) server_ = *std::move(server);
  }
  ~LinkNode() {
    Stop();
    std::filesystem::remove_all(directory_);
  }

  void Stop() {
    link_->Stop();
    if (server_ != nullptr) server_->Stop();
  }

  DirectoryLink& link() { return *link_; }
  directory::NodeId id() const { return options_.id; }
  int port() const { return server_->port(); }
  std::string socket() const { return directory_ + "/grpc.sock"; }
  DirectoryPeer peer() const { return {id(), TcpAddress("127.0.0.1", port())}; }
  DirectoryLinkStats::Peer Of(directory::NodeId id) const {
    for (const auto& peer : link_->Tell().peers) {
      if (peer.peer.id == id) return peer;
    }
    return {};
  }

  struct Told {
    directory::NodeId from = 0;
    directory::Message message;
  };
  std::vector<Told> told() const {
    std::lock_guard lock(mutex_);
    return told_;
  }
  // The numbers of the small messages, in the order in which they came.
  std::vector<uint64_t> numbers() const {
    std::lock_guard lock(mutex_);
    std::vector<uint64_t> numbers;
    for (const Told& one : told_) {
      if (const auto* collect = std::get_if<directory::Collect>(&one.message)) numbers.push_back(collect->term);
    }
    return numbers;
  }
  size_t batches() const {
    std::lock_guard lock(mutex_);
    return batches_;
  }
  bool Hears(uint64_t number) {
    return Eventually([&] {
      const std::vector<uint64_t> all = numbers();
      return std::find(all.begin(), all.end(), number) != all.end();
    });
  }

 private:
  void Note(directory::NodeId from, std::vector<directory::Message> messages) {
    for (directory::Message& message : messages) {
      {
        std::lock_guard lock(mutex_);
        told_.push_back({from, message});
      }
      if (options_.then) options_.then(from, message);
    }
    std::lock_guard lock(mutex_);
    ++batches_;
  }

  const Options options_;
  std::string directory_;
  mutable std::mutex mutex_;
  std::vector<Told> told_;
  size_t batches_ = 0;
  std::unique_ptr<DirectoryLink> link_;
  std::unique_ptr<GrpcServer> server_;
};

// A port that nobody listens on.
inline int FreePort() {
  const auto listener = ListenTcp("127.0.0.1", 0);
  return *BoundPort(listener->get());
}

}  // namespace penstock::server
