#include "server/directory/entry.h"

#include <algorithm>

namespace penstock::server::directory {

void Entry::SetText(std::string_view name, std::string_view info) {
  text.clear();
  text.reserve(name.size() + info.size());
  text.append(name).append(info);
  name_bytes = static_cast<uint16_t>(name.size());
  reasons = 0;
}

bool Entry::HeldBy(NodeId node) const {
  return std::find(holders.begin(), holders.end(), node) != holders.end();
}

void Entry::RemoveHolder(NodeId node) {
  const auto it = std::find(holders.begin(), holders.end(), node);
  if (it == holders.end()) return;
  const auto index = static_cast<size_t>(it - holders.begin());
  if (index < reasons) {
    text.erase(InfoEnd() + kReasonBytes * index, kReasonBytes);
    --reasons;
  }
  holders.erase(it);
}

void Entry::AddHolder(NodeId node, Reason why) {
  holders.push_back(node);
  for (; reasons < std::min<size_t>(holders.size(), 255); ++reasons) {
    const Reason reason = reasons + 1u == holders.size() ? why : 0;
    for (size_t i = 0; i < kReasonBytes; ++i) text.push_back(static_cast<char>(reason >> 8 * i));
  }
}

Reason Entry::WhyHolder(size_t index) const {
  if (index >= reasons) return 0;
  Reason reason = 0;
  for (size_t i = 0; i < kReasonBytes; ++i) {
    reason |= Reason{static_cast<uint8_t>(text[InfoEnd() + kReasonBytes * index + i])} << 8 * i;
  }
  return reason;
}

void Entry::SetReasons(absl::Span<const Reason> reasons_of_holders) {
  const auto nodes = std::move(holders);
  holders.clear();
  text.resize(InfoEnd());
  reasons = 0;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (i < reasons_of_holders.size()) {
      AddHolder(nodes[i], reasons_of_holders[i]);
    } else {
      holders.push_back(nodes[i]);
    }
  }
}

const Entry* EntryTable::Find(std::string_view name) const {
  auto it = entries_.find(name);
  return it == entries_.end() ? nullptr : it->get();
}

bool EntryTable::Put(Entry entry) {
  auto it = entries_.find(entry.name());
  if (it != entries_.end()) {
    if ((*it)->stamp >= entry.stamp) return false;
    tombstones_ += static_cast<size_t>(entry.deleted) - static_cast<size_t>((*it)->deleted);
    **it = std::move(entry);  // the same name: the order stays
    return true;
  }
  tombstones_ += entry.deleted;
  entries_.insert(std::make_unique<Entry>(std::move(entry)));
  return true;
}

void EntryTable::Erase(std::string_view name) {
  auto it = entries_.find(name);
  if (it == entries_.end()) return;
  tombstones_ -= (*it)->deleted;
  entries_.erase(it);
}

void EntryTable::Clear() {
  entries_.clear();
  tombstones_ = 0;
}

const Entry* EntryTable::Next(std::string_view after, bool inclusive) const {
  auto it = inclusive ? entries_.lower_bound(after) : entries_.upper_bound(after);
  return it == entries_.end() ? nullptr : it->get();
}

bool EntryTable::AnyTombstone(Stamp upto) const {
  if (tombstones_ == 0) return false;
  return std::any_of(entries_.begin(), entries_.end(), [upto](const auto& entry) { return entry->deleted && entry->stamp <= upto; });
}

uint64_t EntryTable::Collect(Stamp upto, const std::function<void(std::string_view)>& going) {
  uint64_t largest = 0;
  if (tombstones_ == 0) return 0;
  for (auto it = entries_.begin(); it != entries_.end();) {
    if ((*it)->deleted && (*it)->stamp <= upto) {
      largest = std::max(largest, (*it)->version.number);
      if (going) going((*it)->name());
      it = entries_.erase(it);
      --tombstones_;
    } else {
      ++it;
    }
  }
  return largest;
}

}  // namespace penstock::server::directory
