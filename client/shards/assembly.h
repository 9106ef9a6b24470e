// Assemblies: tensors of which not all shards are there yet, as proto/shards.proto has them.
//
// Threading:  functions on messages
// Ownership:  none
// Errors:     InvalidArgument that names the field on which a shard and its assembly do not agree
// Limits:     the boxes of one assembly are looked at one by one
#ifndef PENSTOCK_CLIENT_SHARDS_ASSEMBLY_H_
#define PENSTOCK_CLIENT_SHARDS_ASSEMBLY_H_

#include <penstock/client.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "shards.pb.h"

namespace penstock::client {

using Assembly = v1::ShardIndex::Assembly;

// Of Assembly::number: it is over, whatever version the name has.
inline constexpr uint64_t kAnyNumber = ~uint64_t{0};

// A shard that was checked by itself.
struct ShardSpec {
  DType dtype = DType::kInvalid;
  Shape whole;
  Box box;
  PutOptions options;
};

// One without boxes.
Assembly Begin(const ShardSpec& spec);
Assembly* Find(v1::ShardIndex& index, uint64_t version);
absl::Status CheckAgrees(const ShardSpec& spec, const Assembly& assembly);
// It is published, or can never be: the name is at its version, or beyond.
bool IsOver(const Assembly& assembly, uint64_t present_version);
bool HasSameBoxes(const Assembly& a, const Assembly& b);  // of the very same puts
bool SharesBoxes(const Assembly& a, const Assembly& b);    // one at least

Box BoxOf(const v1::ShardIndex::Box& box);
// The box that is this one; null: none. InvalidArgument: one overlaps.
absl::StatusOr<const v1::ShardIndex::Box*> Meet(const Assembly& assembly, const Box& box);
void Add(const Box& box, const std::string& id, const std::string& session, Assembly* assembly);
// Takes out the boxes with these ids, and what has none then.
void Remove(const std::vector<std::string>& ids, v1::ShardIndex* index);
// Whether nothing is missing when `box`, which is apart from the others, is there too.
bool Covers(const Assembly& assembly, const Box& box);
// What is missing then; disjoint.
std::vector<Box> MissingWith(const Assembly& assembly, const Box& box);
// "[0:2, 0:3] and 4 more"
std::string Text(const std::vector<Box>& boxes);

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SHARDS_ASSEMBLY_H_
