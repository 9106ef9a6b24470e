// SessionTable: duplicates of the descriptors of every session, with the node's note about each.
//
// While the warden has a session's socket open, its client sees no end-of-file when a node dies:
// the next node takes the descriptors from here and the session goes on.
//
// Threading:  one thread at a time (the warden has one)
// Ownership:  owns the descriptors; a forked child takes its copy of them with Inherit()
// Errors:     NOT_FOUND (no such session), RESOURCE_EXHAUSTED (kMaxSessionFds)
// Limits:     warden_protocol.h
#ifndef PENSTOCK_SERVER_WARDEN_SESSION_TABLE_H_
#define PENSTOCK_SERVER_WARDEN_SESSION_TABLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/warden/warden_client.h"
#include "transport/unique_fd.h"

namespace penstock::warden {

class SessionTable {
 public:
  // Replaces what was kept for this id.
  void Keep(uint64_t id, std::string blob, std::vector<UniqueFd> fds);
  absl::Status AddFd(uint64_t id, UniqueFd fd);
  absl::Status Drop(uint64_t id);

  // In a forked child: what the table holds. The table is empty afterwards.
  std::vector<InheritedSession> Inherit();

  size_t size() const { return sessions_.size(); }

 private:
  std::map<uint64_t, InheritedSession> sessions_;
};

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_SESSION_TABLE_H_
