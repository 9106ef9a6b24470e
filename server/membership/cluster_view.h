// Views of the cluster: who is a member, and who was one and may come back.
//
// Pure functions: the next view is made from the present one and from who is alive, by whoever sees first that they differ; etcd's
// compare-and-swap decides between those that see it at the same time.
//
// Threading:  any thread
// Ownership:  plain values
// Errors:     none
// Limits:     none
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster.pb.h"

namespace penstock::server {

inline constexpr uint64_t kForgetAfterNs = uint64_t{24} * 3600 * 1'000'000'000;  // an absent node

// Nothing: `view` is right. Whoever is alive is a member, as it describes itself, unless another node bars it; a member that is not is
// absent from now on; one that is absent for kForgetAfterNs is forgotten, and so is one whose address on its host another member has:
// whoever had it before is not there any more, nor is its memory. `new_cluster_id`: of a view that none was before.
std::optional<v1::View> NextView(const v1::View& view, const std::vector<v1::Member>& alive, uint64_t now_ns, uint64_t new_cluster_id);

// The other node whose id begins with the same 8 bytes, which must be one node's alone (they are its id in the directory): one that has a
// place in the view, else that with the smaller id of those alive. Null: nobody keeps this node out.
const v1::Member* WhoBars(std::string_view id, const v1::View& view, const std::vector<v1::Member>& alive);

// Without a member that leaves (it is not absent: nothing of it comes back), or that was given up; nothing: it is not there.
std::optional<v1::View> ViewWithoutMember(const v1::View& view, std::string_view id);
std::optional<v1::View> ViewWithoutAbsent(const v1::View& view, std::string_view id);
// The same view (and number): it drains already, or does not. Nothing: it is no member.
std::optional<v1::View> ViewWithDraining(const v1::View& view, std::string_view id, bool draining);

const v1::Member* FindMember(const v1::View& view, std::string_view id);
const v1::Member* FindAbsent(const v1::View& view, std::string_view id);

// "joined: ...; expelled: ..."; empty: the same members in the same state.
std::string DescribeChange(const v1::View& before, const v1::View& after);

}  // namespace penstock::server
