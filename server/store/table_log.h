// TableLog: the directory's tables (server/directory/tables.h) in memory that outlives the node's process.
//
// A log of changes in segments of the warden's. A record counts from the store of its segment's `used` on, which comes last, so a
// process that dies at any moment leaves a log that can be read. When what is no longer so has become most of it, the log is written
// anew under the next *epoch*, which counts from the store of `whole` on: a few partitions at a time (Renew), from what the directory
// has. Until it is whole, changes go into the old log, and those of partitions that are in the new one already, there, too.
//
// Threading:  one thread at a time (the directory's lock)
// Ownership:  the segments are the warden's
// Errors:     without memory for the log nothing is kept any more (`lost()`): the next process begins as one that has lost its memory
// Limits:     about 100 bytes, name, info and 8 bytes a holder an entry, twice that before it is written anew, three times while it
//             is; Renew takes about a millisecond. At most 65536 partitions.
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
  void Renew(const Tell& tell) override;

  // Everything: it is of another cluster.
  void Forget();
  bool lost() const { return lost_; }
  uint64_t bytes() const { return log_.bytes; }

 private:
  struct Head;
  struct RecordHead;
  struct Contents;  // of a log, by partition

  // The segments of one epoch, in order.
  struct Log {
    std::vector<SharedSegment> segments;
    uint64_t epoch = 0;
    uint64_t bytes = 0;  // of its records
  };

  static Head* HeadOf(const SharedSegment& segment) { return static_cast<Head*>(segment.address); }
  void Adopt(std::vector<SharedSegment> inherited);
  void Append(uint16_t kind, directory::Partition partition, absl::Span<const std::string_view> parts);
  void AppendTo(Log* log, uint16_t kind, directory::Partition partition, absl::Span<const std::string_view> parts);
  bool MakeRoom(Log* log, uint64_t bytes);
  bool AddSegment(Log* log, uint64_t bytes);
  Contents Read() const;
  void BeginAnew();
  void FinishAnew();
  void Drop(Log* log);
  void GiveUp();

  SharedSegments* const segments_;
  Log log_;
  Log next_;                         // written anew; no segments: it is not
  directory::Partition renewed_ = 0;  // the partitions below are in `next_`
  bool only_next_ = false;
  std::vector<uint32_t> dropping_;   // segments of the log before
  uint64_t write_anew_at_ = 0;
  bool lost_ = false;
};

}  // namespace penstock::server
