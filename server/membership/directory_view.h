// A cluster's view as the directory (server/directory/view.h) takes it.
//
// The directory's term is the view's number: numbers are given once in a cluster, as the view is changed by compare-and-swap, and the
// members' `since` are numbers. A DirectoryNode, and what it keeps, belong to one View::cluster_id: with another one numbers begin anew.
//
// Threading:  any thread
// Ownership:  plain values
// Errors:     none: members that cannot take part (without a session: of a Penstock that has no directory) are left out
// Limits:     none
#pragma once

#include "cluster.pb.h"
#include "server/directory/view.h"

namespace penstock::server {

// The life of its memory (Member.boot), not its uuid: a node that comes back under its --node_id without its memory is another one.
inline directory::NodeId DirectoryIdOf(const v1::Member& member) { return member.boot(); }

directory::View ToDirectoryView(const v1::View& view);

}  // namespace penstock::server
