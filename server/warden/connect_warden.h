// ConnectWarden: the node's end of the socket to its warden, as a WardenClient.
//
// The warden's program makes it right after the fork; the node's library sees the interface only,
// so that the library needs nothing of the warden's code.
//
// Threading:  ConnectWarden before the node has threads; the client any thread
// Ownership:  the client owns the socket
// Errors:     warden_client.h
// Limits:     none of its own
#ifndef PENSTOCK_SERVER_WARDEN_CONNECT_WARDEN_H_
#define PENSTOCK_SERVER_WARDEN_CONNECT_WARDEN_H_

#include <memory>

#include "server/warden/warden_client.h"
#include "transport/unique_fd.h"

namespace penstock::warden {

std::unique_ptr<WardenClient> ConnectWarden(UniqueFd socket);

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_CONNECT_WARDEN_H_
