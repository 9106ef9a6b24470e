// What MoveTensor asks for: a tensor, or a copy of it, for another node.
//
// Threading:  any thread; waits for the tensor's home, at most kPatience
// Ownership:  what it is given must outlive the call
// Errors:     NOT_FOUND the tensor, or the node; FAILED_PRECONDITION the node drains; RESOURCE_EXHAUSTED it is full; UNAVAILABLE it, or the
//             home, cannot be reached; DEADLINE_EXCEEDED it is still on its way: ask again; DATA_LOSS
// Limits:     none
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/cluster/cluster_directory.h"
#include "store.pb.h"

namespace penstock::server {

constexpr absl::Duration kMovePatience = absl::Milliseconds(700);  // less than a client waits for an answer

using NodeNameOf = std::function<std::string(directory::NodeId node)>;  // its uuid as text

// `to`: a member's id.
absl::Status MoveTensor(ClusterDirectory& directory, const v1::MoveTensorRequest& request, directory::NodeId to, const NodeNameOf& name_of,
                        v1::MoveTensorResponse* response);

}  // namespace penstock::server
