// IncomingStreams: gRPC's service Directory, on which the others tell this node their messages.
//
// Threading:  any thread; on_messages as directory_link.h says
// Ownership:  the server that it was added to must have stopped before it is destroyed
// Errors:     a stream without a hello for this node ends with FAILED_PRECONDITION; one that comes by the socket for local clients
//             with PERMISSION_DENIED, and any after Stop with UNAVAILABLE. A message that Decode refuses is counted and left out.
// Limits:     one stream of a sort from a node: a newer one ends the older
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/directory/directory_messages.h"
#include "server/directory_link/link_counters.h"

namespace grpc {
class ServerBuilder;
}

namespace penstock::server {

class IncomingStreams {
 public:
  struct Options {
    directory::NodeId self = 0;
    uint64_t session = 0;
    std::string cluster;
    uint32_t partition_count = 0;
    std::shared_ptr<LinkCounters> counters;
    std::function<void(directory::NodeId from, std::vector<directory::Message> messages)> on_messages;
  };
  static std::unique_ptr<IncomingStreams> Create(Options options);
  virtual ~IncomingStreams() = default;
  virtual void AddTo(grpc::ServerBuilder* builder) = 0;
  virtual void Stop() = 0;  // returns when no stream is left; idempotent
};

}  // namespace penstock::server
