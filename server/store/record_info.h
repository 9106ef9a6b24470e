// RecordInfo: what the cluster's directory keeps of a tensor, from a record and back to what copies are made from.
//
//   std::string bytes = RecordInfoOf(record).SerializeAsString();          // HeldRecord::info, PutInfo::info
//   auto info = ParseRecordInfo(found.info.info);                          // at the node that makes a copy
//   auto spec = SpecOfRecord(name, *info, &metadata);                      // NodeSession::Reserve, Take; then Store::Prepare
//
// Threading:  any thread
// Ownership:  results are copies; a spec views the name and `metadata`, which must outlive it
// Errors:     INVALID_ARGUMENT that names the field: the bytes come from other nodes
// Limits:     none
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "proto/layout/catalog_layout.h"
#include "server/directory/directory_messages.h"
#include "server/store/store.h"
#include "store.pb.h"

namespace penstock::server {

v1::RecordInfo RecordInfoOf(const layout::Record* record);
absl::StatusOr<v1::RecordInfo> ParseRecordInfo(std::string_view bytes);
// A draft in an arena whose conditions are the directory's matter. Its times are not in the spec: Store::Preparation.
absl::StatusOr<CreateSpec> SpecOfRecord(std::string_view name, const v1::RecordInfo& info, std::string* metadata);
// What `stat` and `list` tell of a name that its home has told; without location and nodes.
absl::StatusOr<v1::TensorInfo> TensorInfoOf(std::string_view name, directory::Version version, const directory::PutInfo& put);

}  // namespace penstock::server
