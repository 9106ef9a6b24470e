// One name in the directory, and the table of a partition's entries.
//
// Threading:  one thread (DirectoryNode's)
// Ownership:  EntryTable owns its entries; a pointer that it gave is good until the next change of the table
// Errors:     none
// Limits:     about 155 bytes an entry, its name and its info; find and change cost a few comparisons of names (some us when
//             they are not in the cache)
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/container/btree_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "server/directory/ids.h"
#include "server/directory/reason.h"

namespace penstock::server::directory {

struct Entry {
  // The name, then the info: what the node wants kept with it (dtype, shape, created; opaque here), then the reasons.
  std::string text;
  Version version;
  Stamp stamp;
  OpId op;  // of the put or delete that made this version
  uint64_t nbytes = 0;
  absl::InlinedVector<NodeId, 2> holders;
  uint16_t name_bytes = 0;
  uint8_t replicas = 1;  // wanted
  bool deleted = false;
  bool cache = false;  // may be evicted when it is the last copy
  uint8_t reasons = 0;  // of the first holders: why they hold it, 3 bytes each

  std::string_view name() const { return std::string_view(text).substr(0, name_bytes); }
  std::string_view info() const { return std::string_view(text).substr(name_bytes, InfoEnd() - name_bytes); }
  void SetText(std::string_view name, std::string_view info);  // without reasons
  bool HeldBy(NodeId node) const;
  void AddHolder(NodeId node, Reason why);
  Reason WhyHolder(size_t index) const;
  void SetReasons(absl::Span<const Reason> reasons_of_holders);
  void RemoveHolder(NodeId node);

 private:
  static constexpr size_t kReasonBytes = 3;
  size_t InfoEnd() const { return text.size() - kReasonBytes * reasons; }
};
static_assert(sizeof(Entry) <= 128);

class EntryTable {
 public:
  const Entry* Find(std::string_view name) const;
  // Takes the entry unless the table has one of the same name with this or a larger stamp.
  bool Put(Entry entry);
  void Erase(std::string_view name);
  void Clear();
  size_t size() const { return entries_.size(); }
  size_t tombstones() const { return tombstones_; }

  // In the order of names: the first whose name is above `after` (with `inclusive`: not below); null at the end.
  const Entry* Next(std::string_view after, bool inclusive = false) const;
  bool AnyTombstone(Stamp upto) const;
  // Removes tombstones up to `upto`, and tells each before; the largest version number that went, 0 for none.
  uint64_t Collect(Stamp upto, const std::function<void(std::string_view name)>& going = {});

  // Visits in the order of names, from the first above `after` on, until a visit returns false; whether the end was reached.
  template <typename Visit>
  bool Walk(std::string_view after, Visit visit) const {
    for (auto it = entries_.upper_bound(after); it != entries_.end(); ++it) {
      if (!visit(**it)) return false;
    }
    return true;
  }
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const auto& entry : entries_) visit(*entry);
  }

 private:
  struct ByName {
    using is_transparent = void;
    static std::string_view Name(const std::unique_ptr<Entry>& entry) { return entry->name(); }
    static std::string_view Name(std::string_view name) { return name; }
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      return Name(a) < Name(b);
    }
  };
  absl::btree_set<std::unique_ptr<Entry>, ByName> entries_;
  size_t tombstones_ = 0;
};

}  // namespace penstock::server::directory
