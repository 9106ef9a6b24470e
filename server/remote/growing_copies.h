// GrowingCopies: the large tensors of other nodes that this one is copying now, which others may read here before they are whole.
//
//   GrowingCopies::Entry entry = copies->Begin(key, held);   // found by its key from now on
//   ... entry.copy()->Arrived(begin, end) ...
//   entry.copy()->Fail(status);                              // unless all came
//
// The block is held as what it will be when it is published (Store::HoldDraft), so whoever reads it goes on doing so whatever
// becomes of it: published, published and overwritten, or given up. Such a copy is nobody's replica, and nobody is told of it but
// those that the chain sends here (fetch_chains.h).
//
// Threading:  any thread
// Ownership:  shared by who makes the copy, by grants and by transfers; the store and the bell must outlive it
// Errors:     Ready: why the bytes will not come
// Limits:     the bell is rung for each kRingBytes that somebody waits for
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/remote/byte_coverage.h"
#include "server/store/store.h"
#include "transport/lane/lane.h"

namespace penstock::server {

class GrowingCopy final : public GrowingBlock {
 public:
  static constexpr uint64_t kRingBytes = uint64_t{256} << 10;

  GrowingCopy(Store::HeldTensor held, int bell_fd) : held_(std::move(held)), bell_fd_(bell_fd) {}

  absl::StatusOr<uint64_t> Ready(uint64_t offset) override;
  void Arrived(uint64_t begin, uint64_t end);
  void Fail(absl::Status why);  // what is missing will not come
  std::vector<std::pair<uint64_t, uint64_t>> Missing() const;
  const Store::HeldTensor& held() const { return held_; }

 private:
  void Ring() const;

  const Store::HeldTensor held_;
  const int bell_fd_;
  mutable std::mutex mutex_;
  ByteCoverage there_ ABSL_GUARDED_BY(mutex_);
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  bool awaited_ ABSL_GUARDED_BY(mutex_) = false;  // since the last ring
  uint64_t unrung_ ABSL_GUARDED_BY(mutex_) = 0;
};

class GrowingCopies {
 public:
  // Name, version and when the original was made.
  using Key = std::tuple<std::string, uint64_t, uint64_t>;

  explicit GrowingCopies(int bell_fd) : bell_fd_(bell_fd) {}

  // While it lives the copy is found.
  class Entry {
   public:
    Entry() = default;
    Entry(GrowingCopies* copies, Key key, std::shared_ptr<GrowingCopy> copy) : copies_(copies), key_(std::move(key)), copy_(std::move(copy)) {}
    Entry(Entry&& other) noexcept : copies_(std::exchange(other.copies_, nullptr)), key_(std::move(other.key_)), copy_(std::move(other.copy_)) {}
    Entry& operator=(Entry&&) = delete;
    ~Entry() {
      if (copies_ != nullptr) copies_->End(key_, copy_.get());
    }
    GrowingCopy* copy() const { return copy_.get(); }

   private:
    GrowingCopies* copies_ = nullptr;
    Key key_;
    std::shared_ptr<GrowingCopy> copy_;
  };
  Entry Begin(Key key, Store::HeldTensor held);
  std::shared_ptr<GrowingCopy> Find(const Key& key) const;  // null: there is none

 private:
  void End(const Key& key, const GrowingCopy* copy);

  const int bell_fd_;
  mutable std::mutex mutex_;
  std::map<Key, std::shared_ptr<GrowingCopy>> copies_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
