#include "server/membership/directory_view.h"

namespace penstock::server {

directory::View ToDirectoryView(const v1::View& view) {
  directory::View out;
  out.term = view.number();
  for (const v1::Member& member : view.members()) {
    const directory::NodeId id = DirectoryIdOf(member);
    if (id == 0 || member.session() == 0) continue;
    out.members.push_back({.id = id,
                           .session = member.session(),
                           .lease = static_cast<uint64_t>(member.lease()),
                           .since = member.since(),
                           .draining = member.draining(),
                           .host = member.host(),
                           .zone = member.zone()});
  }
  for (const v1::View::Absent& absent : view.absent()) {
    if (const directory::NodeId id = DirectoryIdOf(absent.member()); id != 0) out.absent.push_back(id);
  }
  return out;
}

}  // namespace penstock::server
