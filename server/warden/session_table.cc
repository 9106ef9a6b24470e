#include "server/warden/session_table.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/warden/warden_protocol.h"

namespace penstock::warden {

void SessionTable::Keep(uint64_t id, std::string blob, std::vector<UniqueFd> fds) {
  InheritedSession session;
  session.id = id;
  session.blob = std::move(blob);
  session.fds = std::move(fds);
  sessions_[id] = std::move(session);
}

absl::Status SessionTable::AddFd(uint64_t id, UniqueFd fd) {
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) {
    return absl::NotFoundError(absl::StrCat("add a descriptor: there is no session ", id));
  }
  if (it->second.fds.size() >= kMaxSessionFds) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "add a descriptor: session ", id, " has ", kMaxSessionFds, " already, which is the limit"));
  }
  it->second.fds.push_back(std::move(fd));
  return absl::OkStatus();
}

absl::Status SessionTable::Drop(uint64_t id) {
  if (sessions_.erase(id) == 0) {
    return absl::NotFoundError(absl::StrCat("drop session: there is no session ", id));
  }
  return absl::OkStatus();
}

std::vector<InheritedSession> SessionTable::Inherit() {
  std::vector<InheritedSession> sessions;
  sessions.reserve(sessions_.size());
  for (auto& entry : sessions_) sessions.push_back(std::move(entry.second));
  sessions_.clear();
  return sessions;
}

}  // namespace penstock::warden
