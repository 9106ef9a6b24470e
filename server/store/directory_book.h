// DirectoryBook: the node's records of the cluster's directory: all of them by partition, and those that are *aside* by name
// and operation.
//
// Aside is what the index and the name order do not have: what is prepared, superseded, unconfirmed or quarantined, and what is
// live and older than the one that the index has. Where a record is listed stands in its DirectoryPart, so that a change costs
// the same however many there are.
//
// Threading:  guarded by the store's mutex
// Ownership:  record references only; a record that is here must stay readable (RecordSlabs)
// Errors:     none. Add: the record must not be here; all others: it must be
// Limits:     Add hashes the name; aside costs O(log n) comparisons of names; 4 bytes a record, and 5 more for one that is aside
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/btree_set.h"
#include "server/directory/ids.h"
#include "server/store/record_slabs.h"

namespace penstock::server {

class DirectoryBook {
 public:
  static constexpr directory::Partition kPartitions = 4096;  // directory::Config::partition_count

  explicit DirectoryBook(const RecordSlabs* slabs);
  DirectoryBook(const DirectoryBook&) = delete;
  DirectoryBook& operator=(const DirectoryBook&) = delete;

  void Add(layout::RecordRef ref);  // not aside
  void Remove(layout::RecordRef ref);
  void SetAside(layout::RecordRef ref);
  void TakeBack(layout::RecordRef ref);
  // The same name and operation in another record.
  void Replace(layout::RecordRef from, layout::RecordRef to);

  uint64_t count() const { return count_; }
  uint64_t bytes() const { return bytes_; }  // of their tensors

  bool IsAside(layout::RecordRef ref) const;
  layout::RecordRef FindAside(std::string_view name, directory::OpId op) const;  // 0: none
  std::vector<layout::RecordRef> AsideOf(std::string_view name) const;
  // In order of name and operation, from these on, until `visit` returns false.
  template <class Visit>
  void VisitAside(std::string_view name, directory::OpId op, Visit visit) const {
    for (auto it = aside_.lower_bound(Key{name, op}); it != aside_.end() && visit(*it); ++it) {
    }
  }
  const std::vector<layout::RecordRef>& InPartition(directory::Partition partition) const { return partitions_[partition]; }

 private:
  struct Key {
    std::string_view name;
    directory::OpId op;
    auto operator<=>(const Key&) const = default;
  };
  struct Less {
    using is_transparent = void;
    const DirectoryBook* book;
    Key Of(layout::RecordRef ref) const { return book->KeyOf(ref); }
    Key Of(const Key& key) const { return key; }
    template <class A, class B>
    bool operator()(const A& a, const B& b) const {
      return Of(a) < Of(b);
    }
  };
  Key KeyOf(layout::RecordRef ref) const;
  std::vector<layout::RecordRef>& PartitionFor(layout::RecordRef ref);
  layout::DirectoryPart* PartOf(layout::RecordRef ref) const { return layout::DirectoryPartOf(slabs_->At(ref)); }

  const RecordSlabs* const slabs_;
  std::vector<std::vector<layout::RecordRef>> partitions_;
  absl::btree_set<layout::RecordRef, Less> aside_;
  uint64_t count_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace penstock::server
