#include "server/store/retired_records.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"

namespace penstock::server {

void RetiredRecords::Scan(const std::vector<std::shared_ptr<Session>>& sessions, const HeldPins& held,
                          const std::function<void(const Entry&)>& free) {
  unscanned_ = 0;
  if (entries_.empty()) return;
  absl::flat_hash_set<uint64_t> pinned;
  for (const auto& [word, count] : held) pinned.insert(word);
  size_t words = 0;
  for (const std::shared_ptr<Session>& session : sessions) {
    for (const PinChunk& chunk : session->pins()) {
      words += layout::kPinsPerChunk;
      for (uint32_t i = 0; i < layout::kPinsPerChunk; ++i) {
        // seq_cst: must not be ordered before the store that made the record's sequence even.
        if (const uint64_t word = chunk.words()[i].load(std::memory_order_seq_cst); word & 1) pinned.insert(word);
      }
    }
  }
  scan_after_ = std::clamp<size_t>(words / 32, 256, 1024);
  std::vector<Entry> left;
  for (const Entry& entry : entries_) {
    if (pinned.contains(layout::PinWord(entry.record, entry.live_seq))) {
      left.push_back(entry);
    } else {
      bytes_ -= entry.nbytes;
      free(entry);
    }
  }
  entries_ = std::move(left);
}

}  // namespace penstock::server
