// A relay between two ends of TCP connections that can stop to pass anything on, as a network or a process does that is gone
// without a word: connections stay open, new ones are taken by the kernel, and nobody reads.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "transport/stream/tcp_socket.h"

namespace penstock::server {

class FreezingRelay {
 public:
  explicit FreezingRelay(std::string target)
      : target_(std::move(target)), listener_(*ListenTcp("127.0.0.1", 0)), thread_([this] { Run(); }) {}
  ~FreezingRelay() {
    stopping_.store(true);
    thread_.join();
  }

  std::string address() const { return TcpAddress("127.0.0.1", *BoundPort(listener_.get())); }
  void Freeze() { frozen_.store(true); }
  void Thaw() { frozen_.store(false); }

 private:
  struct Direction {
    TcpSocket* from = nullptr;
    TcpSocket* to = nullptr;
    std::string waiting = {};
  };
  struct Connection {
    TcpSocket client, server;
    Direction there, back;
    bool over = false;
  };

  void Run() {
    while (!stopping_.load()) {
      std::vector<pollfd> fds{{listener_.get(), POLLIN, 0}};
      for (const Connection& c : connections_) {
        fds.push_back({c.client.fd(), POLLIN, 0});
        fds.push_back({c.server.fd(), POLLIN, 0});
      }
      poll(fds.data(), frozen_.load() ? 0 : fds.size(), 5);
      if (frozen_.load()) continue;
      Accept();
      for (Connection& c : connections_) c.over = !Pass(&c.there) || !Pass(&c.back);
      connections_.remove_if([](const Connection& c) { return c.over; });
    }
  }

  void Accept() {
    while (true) {
      absl::StatusOr<TcpSocket> client = AcceptTcp(listener_.get());
      if (!client.ok() || !*client) return;
      absl::StatusOr<TcpSocket> server = TcpSocket::BeginConnect(target_);
      if (!server.ok()) return;
      Connection& c = connections_.emplace_back();
      c.client = *std::move(client);
      c.server = *std::move(server);
      pollfd connected{c.server.fd(), POLLOUT, 0};
      poll(&connected, 1, 1000);
      c.there = {&c.client, &c.server};
      c.back = {&c.server, &c.client};
    }
  }

  static bool Pass(Direction* direction) {
    char bytes[65536];
    if (direction->waiting.empty()) {
      const absl::StatusOr<size_t> got = direction->from->Receive(bytes, sizeof(bytes));
      if (!got.ok()) return false;
      direction->waiting.assign(bytes, *got);
    }
    if (direction->waiting.empty()) return true;
    const absl::StatusOr<size_t> sent = direction->to->Send(direction->waiting.data(), direction->waiting.size(), false);
    if (!sent.ok()) return false;
    direction->waiting.erase(0, *sent);
    return true;
  }

  const std::string target_;
  const UniqueFd listener_;
  std::list<Connection> connections_;
  std::atomic<bool> frozen_{false}, stopping_{false};
  std::thread thread_;
};

}  // namespace penstock::server
