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

// Nothing: `view` is right. Whoever is alive is a member, as it describes itself; a member that is not is absent from now on; one that
// is absent for kForgetAfterNs is forgotten.
std::optional<v1::View> NextView(const v1::View& view, const std::vector<v1::Member>& alive, uint64_t now_ns);

// Without a member that leaves (it is not absent: nothing of it comes back), or that was given up; nothing: it is not there.
std::optional<v1::View> ViewWithoutMember(const v1::View& view, std::string_view id);
std::optional<v1::View> ViewWithoutAbsent(const v1::View& view, std::string_view id);

const v1::Member* FindMember(const v1::View& view, std::string_view id);

// "joined: ...; expelled: ..."; empty: the same members.
std::string DescribeChange(const v1::View& before, const v1::View& after);

}  // namespace penstock::server
