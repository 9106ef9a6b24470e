#include "server/remote/growing_copies.h"

#include <unistd.h>

namespace penstock::server {

absl::StatusOr<uint64_t> GrowingCopy::Ready(uint64_t offset) {
  std::lock_guard lock(mutex_);
  const uint64_t ready = there_.From(offset);
  if (ready > 0) return ready;
  if (!failed_.ok()) return failed_;
  awaited_ = true;
  return 0;
}

void GrowingCopy::Arrived(uint64_t begin, uint64_t end) {
  {
    std::lock_guard lock(mutex_);
    there_.Add(begin, end);
    unrung_ += end - begin;
    if (!awaited_ || (unrung_ < kRingBytes && there_.bytes() < held_.info.nbytes())) return;
    awaited_ = false;
    unrung_ = 0;
  }
  Ring();
}

void GrowingCopy::Fail(absl::Status why) {
  {
    std::lock_guard lock(mutex_);
    failed_ = std::move(why);
  }
  Ring();
}

void GrowingCopy::Ring() const {
  const uint64_t one = 1;
  if (write(bell_fd_, &one, sizeof(one)) < 0) return;  // rung already
}

std::vector<std::pair<uint64_t, uint64_t>> GrowingCopy::Missing() const {
  std::lock_guard lock(mutex_);
  return there_.Missing(held_.info.nbytes());
}

GrowingCopies::Entry GrowingCopies::Begin(Key key, Store::HeldTensor held) {
  auto copy = std::make_shared<GrowingCopy>(std::move(held), bell_fd_);
  std::lock_guard lock(mutex_);
  copies_[key] = copy;
  return Entry(this, std::move(key), std::move(copy));
}

std::shared_ptr<GrowingCopy> GrowingCopies::Find(const Key& key) const {
  std::lock_guard lock(mutex_);
  const auto it = copies_.find(key);
  return it == copies_.end() ? nullptr : it->second;
}

void GrowingCopies::End(const Key& key, const GrowingCopy* copy) {
  std::lock_guard lock(mutex_);
  if (const auto it = copies_.find(key); it != copies_.end() && it->second.get() == copy) copies_.erase(it);  // the entry still has it
}

}  // namespace penstock::server
