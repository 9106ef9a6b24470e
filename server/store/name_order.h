// NameOrder: the live records in the order of their names, for lists and prefixes.
//
// A name has a *place* for as long as it is there: the tree holds places, a place holds the record of the newest version.
// So an overwrite, the commonest change, touches no tree and compares no names.
//
// Threading:  guarded by the store's mutex.
// Ownership:  record references only; a record that is here must stay readable (RecordSlabs).
// Errors:     none. Insert: the name must not be here; Replace, Erase: the record must be.
// Limits:     Insert and Erase cost O(log n) comparisons of names; 4 bytes a name and 4 bytes per 64 bytes of records.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/container/btree_set.h"
#include "proto/names.h"
#include "server/store/record_slabs.h"

namespace penstock::server {

class NameOrder {
  using Place = uint32_t;
  struct Less {
    using is_transparent = void;
    const NameOrder* order;
    std::string_view Text(Place place) const { return order->NameOf(order->records_[place]); }
    std::string_view Text(std::string_view name) const { return name; }
    template <class A, class B>
    bool operator()(const A& a, const B& b) const {
      return Text(a) < Text(b);
    }
  };
  using Tree = absl::btree_set<Place, Less>;
  static constexpr std::string_view kBehindReserved = ".penstock0";  // '0' follows '/'

 public:
  explicit NameOrder(const RecordSlabs* slabs) : slabs_(slabs), tree_(Less{this}) {}
  NameOrder(const NameOrder&) = delete;
  NameOrder& operator=(const NameOrder&) = delete;

  void Insert(layout::RecordRef ref);
  void Replace(layout::RecordRef from, layout::RecordRef to);  // of the same name
  void Erase(layout::RecordRef ref);
  size_t size() const { return tree_.size(); }

  // Positions in the order. Any change makes them invalid.
  using Iterator = Tree::const_iterator;
  Iterator LowerBound(std::string_view name) const { return tree_.lower_bound(name); }
  Iterator UpperBound(std::string_view name) const { return tree_.upper_bound(name); }
  Iterator end() const { return tree_.end(); }
  // The same, or behind the reserved names if it is among them: they may be many, and nobody who asks for all wants them.
  Iterator SkipReserved(Iterator it) const {
    const bool reserved = it != end() && NameOf(At(it)).starts_with(kReservedPrefix);
    return reserved ? tree_.lower_bound(kBehindReserved) : it;
  }
  layout::RecordRef At(Iterator it) const { return records_[*it]; }

 private:
  std::string_view NameOf(layout::RecordRef ref) const {
    const layout::Record* record = slabs_->At(ref);
    return layout::NameOf(record);
  }
  Place& PlaceOf(layout::RecordRef ref);

  const RecordSlabs* const slabs_;
  std::vector<layout::RecordRef> records_;                // by place
  std::vector<Place> free_;
  std::vector<std::unique_ptr<Place[]>> places_;          // by chunk and unit of the record
  Tree tree_;
};

}  // namespace penstock::server
