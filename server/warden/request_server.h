// RequestServer: executes what a node asks of its warden and answers it.
//
// It never waits: a request that takes time (populating, checking a library) is answered when its child process has
// ended, and a node that does not take its answers is cut off instead of stalling the warden.
//
// Threading:  one thread at a time (the warden has one)
// Ownership:  the tables outlive it; descriptors that a message brought are closed if not kept
// Errors:     a failed request is answered; a Status that is not OK means: this node has broken the
//             protocol or is gone, no more of it can be served
// Limits:     as many populating children as the node asks for
#ifndef PENSTOCK_SERVER_WARDEN_REQUEST_SERVER_H_
#define PENSTOCK_SERVER_WARDEN_REQUEST_SERVER_H_

#include <poll.h>

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/warden/library_check.h"
#include "server/warden/segment_table.h"
#include "server/warden/session_table.h"
#include "server/warden/warden_protocol.h"
#include "transport/segment/populate.h"
#include "transport/unique_fd.h"

namespace penstock::warden {

class RequestServer {
 public:
  // `node_library`: what kRestartNode has checked.
  RequestServer(SegmentTable* segments, SessionTable* sessions, std::string node_library = {})
      : segments_(*segments), sessions_(*sessions), node_library_(std::move(node_library)) {}

  // Serves what has arrived on `socket`, some messages at most. Call when it is readable.
  absl::Status OnReadable(int socket);

  // Appends one entry for each child to wait for.
  void AppendPollFds(std::vector<pollfd>* fds) const;
  // Answers for the children that have ended. Call after poll.
  absl::Status OnChildren(int socket);

  // The node was just told that it may end, for another one of this version of the library. Told once.
  std::optional<std::string> TakeRestart() { return std::exchange(restart_, std::nullopt); }

  // The node is gone: its unfinished requests with it.
  void Abandon();

 private:
  struct Populating {
    uint64_t number;
    uint32_t segment;
    PopulateChild child;
  };
  // A session that comes in parts.
  struct Parts {
    bool open = false;
    uint64_t id = 0;
    std::vector<UniqueFd> fds;
  };

  absl::Status Serve(int socket, const Request& request, std::vector<UniqueFd> fds);
  absl::Status Create(int socket, const Request& request);
  absl::Status Populate(int socket, const Request& request);
  absl::Status Restart(int socket, const Request& request);
  absl::Status OnChecked(int socket);
  // The next ones return what to answer.
  absl::Status Keep(const Request& request, std::vector<UniqueFd> fds);
  absl::Status DropSegment(uint32_t id);
  absl::Status Answer(int socket, uint64_t number, const absl::Status& result);

  SegmentTable& segments_;
  SessionTable& sessions_;
  const std::string node_library_;
  std::list<Populating> populating_;
  struct Checking {
    uint64_t number;
    LibraryCheck child;
  };
  std::optional<Checking> checking_;
  std::optional<std::string> restart_;
  Parts parts_;
};

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_REQUEST_SERVER_H_
