// TableLog: the directory's tables (server/directory/tables.h) in memory that outlives the node's process.
//
// A log of changes in segments of the warden's. A record counts from the store of its segment's `used` on, which comes last, so a
// process that dies at any moment leaves a log that can be read. When what is no longer so has become most of it, the log is written
// anew under the next *epoch*, which counts from the store of `whole` on.
//
// Threading:  one thread at a time (the directory's lock)
// Ownership:  the segments are the warden's
// Errors:     without memory for the log nothing is kept any more (`lost()`): the next process begins as one that has lost its memory
// Limits:     about 100 bytes, name, info and 8 bytes a holder an entry, twice that before it is written anew, three times while it
//             is; to write it anew takes about a microsecond an entry. At most 65536 partitions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "server/directory/tables.h"
#include "server/store/shared_segments.h"

namespace penstock::server {

class TableLog final : public directory::Tables {
 public:
  // `inherited`: what an earlier process of this memory left.
  TableLog(SharedSegments* segments, std::vector<SharedSegment> inherited);

  void SetComplete(directory::Partition partition, const directory::TableHeader& header) override;
  void Put(directory::Partition partition, const directory::Entry& entry) override;
  void Erase(directory::Partition partition, std::string_view name) override;
  void Clear(directory::Partition partition) override;
  void SetPromise(directory::Partition partition, directory::Term promised) override;
  void Load(const Loaded& loaded) const override;

  // Everything: it is of another cluster.
  void Forget();
  bool lost() const { return lost_; }
  uint64_t bytes() const { return bytes_; }

 private:
  struct Head;
  struct RecordHead;
  struct Contents;  // of a log, by partition

  static Head* HeadOf(const SharedSegment& segment) { return static_cast<Head*>(segment.address); }
  void Adopt(std::vector<SharedSegment> inherited);
  void Append(uint16_t kind, directory::Partition partition, absl::Span<const std::string_view> parts);
  bool MakeRoom(uint64_t bytes);
  bool AddSegment(uint64_t bytes);
  Contents Read() const;
  void WriteAnew();
  void GiveUp();

  SharedSegments* const segments_;
  std::vector<SharedSegment> log_;  // of this epoch, in order
  uint64_t epoch_ = 0;
  uint64_t bytes_ = 0;        // of this epoch's records
  uint64_t write_anew_at_ = 0;
  bool writing_anew_ = false;
  bool lost_ = false;
};

}  // namespace penstock::server
