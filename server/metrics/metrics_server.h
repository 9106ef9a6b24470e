// MetricsServer: what this node tells Prometheus, at /metrics of the HTTP port.
//
// A scrape asks `ask` for the answers that `penstock df` and `penstock nodes` are made of, so their numbers are the same. Names
// follow Prometheus' rules; no label has the name of a tensor or of a client.
//
// Threading:  Start and the destructor from one thread; `ask` is called from threads of this class, two at most, until the
//             destructor has returned
// Ownership:  owns its port and threads
// Errors:     UNAVAILABLE: the port cannot be listened on
// Limits:     IPv4; in clear and for everybody who reaches the port; two scrapes are served at a time, others wait; a request that takes
//             longer than 2 s is dropped
// Source:     Prometheus text format 0.0.4, by prometheus-cpp
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "store.pb.h"

namespace prometheus {
class Exposer;
}

namespace penstock::server {

class MetricsServer {
 public:
  struct Answers {
    v1::NodeInfoResponse node;
    v1::DfResponse df;
    std::string ucx_version;  // empty: built without UCX
  };
  using Ask = std::function<Answers()>;

  // `port` 0: a free one.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& host, int port, Ask ask);
  ~MetricsServer();

  int port() const { return port_; }

 private:
  class Collector;
  MetricsServer() = default;

  std::shared_ptr<Collector> collector_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
  std::string address_;
};

}  // namespace penstock::server
