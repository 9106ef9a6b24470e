#include "server/store/record_check.h"

#include <string>
#include <string_view>

#include "penstock/dtype.h"
#include "penstock/shape.h"
#include "proto/layout/metadata_codec.h"
#include "proto/layout/name_hash.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "server/directory/records.h"
#include "server/store/spill_books.h"

namespace penstock::server {

using layout::Record;
using layout::RecordState;

namespace {

constexpr auto kMaxClusterState = static_cast<uint8_t>(directory::RecordState::kQuarantined) + 1;

template <class... Parts>
absl::Status Wrong(const Parts&... parts) {
  return absl::DataLossError(StrCat(parts...));
}

bool IsLive(const Record& record) { return record.seq.load() & 1; }

absl::Status CheckState(const Record& record, const RecordRules& rules) {
  const uint8_t state = record.state.load();
  if (state > static_cast<uint8_t>(RecordState::kPrepared) && !(rules.may_have_file && state == static_cast<uint8_t>(kSpilledState))) return Wrong("state: ", int{state}, " is none");
  const bool gone = state == static_cast<uint8_t>(RecordState::kFree) || state == static_cast<uint8_t>(RecordState::kRetired);
  if (IsLive(record) && gone) return Wrong("state: ", int{state}, " of a record whose sequence ", record.seq.load(), " is that of a live one");
  return absl::OkStatus();
}

// After it the record's parts are known to lie in its slot.
absl::Status CheckSizes(const Record& record, const RecordRules& rules) {
  if (record.rank > kMaxRank) return Wrong("rank: ", int{record.rank}, " is above ", kMaxRank);
  if (record.name_bytes == 0 || record.name_bytes > kMaxNameBytes) return Wrong("name_bytes: ", record.name_bytes, " is not in 1..", kMaxNameBytes);
  if (layout::RecordBytesOf(&record) > rules.slot_bytes) {
    return Wrong("metadata_bytes: ", record.metadata_bytes, ", flags: ", int{record.flags}, ": the record would have ", layout::RecordBytesOf(&record), " bytes, its place has ",
                 rules.slot_bytes);
  }
  return absl::OkStatus();
}

absl::Status CheckName(const Record& record, const RecordRules& rules) {
  const std::string_view name = NameOf(&record);
  if (const absl::Status s = ValidateName(name); !s.ok()) return Wrong(std::string(s.message()));
  if (layout::HashName(name.data(), name.size(), rules.hash_key) != record.name_hash) return Wrong("name_hash: ", record.name_hash, " is not that of the name");
  const auto metadata = layout::DecodeMetadata({layout::RecordMetadata(&record), record.metadata_bytes});
  if (!metadata.ok()) return Wrong(std::string(metadata.status().message()));
  const absl::Status valid = ValidateMetadata(*metadata);
  return valid.ok() ? valid : Wrong(std::string(valid.message()));
}

absl::Status CheckShape(const Record& record, const RecordRules& rules) {
  const auto dtype = static_cast<DType>(record.dtype);
  if (!IsValid(dtype)) return Wrong("dtype: ", int{record.dtype}, " is none");
  const absl::StatusOr<Shape> shape = Shape::Create(absl::MakeConstSpan(layout::RecordShape(&record), record.rank));
  if (!shape.ok()) return Wrong(std::string(shape.status().message()));
  const absl::StatusOr<uint64_t> bytes = ByteSize(dtype, *shape);
  if (!bytes.ok()) return Wrong(std::string(bytes.status().message()));
  if (*bytes != record.nbytes) return Wrong("nbytes: ", record.nbytes, " is not the size of its shape (", *bytes, ")");
  if (record.nbytes == 0 && record.segment != 0) return Wrong("segment: ", record.segment, " for a tensor without bytes");
  if (record.nbytes != 0 && record.segment == 0 && !rules.may_have_file) return Wrong("segment: 0 for a tensor of ", record.nbytes, " bytes");
  return absl::OkStatus();
}

absl::Status CheckFlags(const Record& record, const RecordRules& rules) {
  const bool fetched = record.flags & layout::kRecordFetched;
  if (record.flags & layout::kRecordPrivate) return Wrong("flags: ", int{record.flags}, " are of a client's own tensor");
  if ((record.flags & layout::kRecordDirectory) && !rules.directory) return Wrong("flags: ", int{record.flags}, " are of a record of a directory, and there is none");
  if ((record.flags & layout::kRecordBound) && !NameOf(&record).starts_with(kReservedPrefix)) return Wrong("flags: ", int{record.flags}, " are of part of a snapshot, and the name is none's");
  const uint8_t cluster_state = record.cluster_state.load();
  if (cluster_state > kMaxClusterState) return Wrong("cluster_state: ", int{cluster_state}, " is none");
  if (cluster_state != 0 && !(record.flags & layout::kRecordDirectory)) return Wrong("cluster_state: ", int{cluster_state}, " of a record that is not the directory's");
  if (cluster_state != 0 && layout::DirectoryPartOf(&record)->op_session == 0) return Wrong("op_session: 0 of a record of the directory");
  const bool leased = record.expires_ns.load() >= layout::kLeaseBase;
  if (IsLive(record) && cluster_state == 0 && fetched != leased) {
    return Wrong("expires_ns: ", record.expires_ns.load(), " of a record whose flags are ", int{record.flags});
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRecord(const Record& record, const RecordRules& rules) {
  for (const auto check : {CheckState, CheckSizes, CheckName, CheckShape, CheckFlags}) {
    if (absl::Status s = check(record, rules); !s.ok()) return s;
  }
  if (IsLive(record) && record.version_number == 0) return Wrong("version_number: 0 of a live record");
  if (record.replicas < 1 || record.replicas > 255) return Wrong("replicas: ", record.replicas, " is not in 1..255");
  return absl::OkStatus();
}

}  // namespace penstock::server
