// What fork() does to sessions (DESIGN.md section 3, "Fork").
//
// Before a fork, each session with live pins makes its child a session of its own: a fresh socket
// and copies of the pin chunks go to the node, which acknowledges them before fork returns. In the
// child the copies take the place of the parent's chunks at the same addresses, so that every view
// goes on with the slot that it has. A session without live pins is simply over in the child, whose
// Client opens another one on first use. Drafts stay the parent's.
//
// When the hand-over fails (no node within 2 s), the parent goes on as if nothing had happened; in
// the child the tensor memory is made inaccessible: a fault instead of bytes that may be reused.
//
// Threading:  the handlers run in the thread that forks; while they run, no get of another thread
//             can pin anything
// Ownership:  the list holds plain pointers; sessions add and remove themselves
// Errors:     none
// Limits:     15 pin chunks (122,880 views) can be handed over; costs one exchange with the node
#ifndef PENSTOCK_CLIENT_SESSION_FORK_H_
#define PENSTOCK_CLIENT_SESSION_FORK_H_

#include <cstdint>
#include <mutex>

namespace penstock::client {

class Session;

class ForkList {
 public:
  static void Add(Session* session);
  static void Remove(Session* session);
  // A mutex that a thread may hold for long: a forked child gets it unlocked, for it has no such thread.
  // What it guards must be whole at every moment.
  static void AddMutex(std::mutex* mutex);
  static void RemoveMutex(std::mutex* mutex);
  // How many forks lie between the first process and this one.
  static uint64_t fork_count();
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_FORK_H_
