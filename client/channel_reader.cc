// Channels: the readers' side.
#include <penstock/client.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "client/connection.h"
#include "client/session/mutable_mapping.h"
#include "proto/layout/channel_layout.h"
#include "proto/strcat.h"

namespace penstock {

using client::Deadline;
using client::MutableMapping;
using layout::MutableKind;

namespace {

constexpr absl::Duration kSlice = absl::Milliseconds(100);  // then the session is looked at
constexpr int kMaxTries = 2 * layout::kMaxSlots;  // of a step that is overwritten each time; a writer may write nonsense, too

const layout::ChannelHeader& HeaderOf(const MutableMapping& mapping) {
  return *layout::ChannelHeaderAt(static_cast<const void*>(mapping.memory()));
}
const std::atomic<uint64_t>& SeqOf(const MutableMapping& mapping, uint64_t seq) {
  return layout::ChannelSlots(static_cast<const void*>(mapping.memory()))[seq % mapping.info().slots].seq;
}

absl::Status CheckGeometry(const MutableMapping& mapping, std::string_view name, const SubscribeOptions& wanted) {
  if (wanted.dtype != DType::kInvalid && wanted.dtype != mapping.dtype()) {
    return absl::InvalidArgumentError(StrCat("dtype: is ", DTypeName(wanted.dtype), ", but the channel \"", name, "\" is of ",
                                             DTypeName(mapping.dtype())));
  }
  if (wanted.shape != nullptr && !(*wanted.shape == mapping.shape())) {
    return absl::InvalidArgumentError(StrCat("shape: is ", wanted.shape->ToString(), ", but the channel \"", name,
                                             "\" is of ", mapping.shape().ToString()));
  }
  return absl::OkStatus();
}

absl::Status OverwrittenEachTime(std::string_view name) {
  return absl::DataLossError(StrCat("channel \"", name, "\": its writer overwrites each step before it is read; give it more slots"));
}

}  // namespace

absl::StatusOr<ChannelReader> Client::Subscribe(std::string_view name, const SubscribeOptions& options) {
  ChannelReader reader;
  reader.connection_ = connection_;
  reader.name_ = std::string(name);
  if (absl::Status s = reader.Subscribe(options); !s.ok()) return s;
  return reader;
}

absl::Status ChannelReader::Subscribe(const SubscribeOptions& options) {
  const MutableMapping::Request request{.kind = MutableKind::kChannel, .name = name_, .shape = {}};
  absl::StatusOr<std::shared_ptr<MutableMapping>> opened = MutableMapping::Open(connection_.get(), request, options.timeout);
  if (!opened.ok()) return opened.status();
  if (absl::Status s = CheckGeometry(**opened, name_, options); !s.ok()) return s;
  mapping_ = *std::move(opened);
  dtype_ = mapping_->dtype();
  shape_ = mapping_->shape();
  nbytes_ = mapping_->info().nbytes;
  slots_ = mapping_->info().slots;
  const uint64_t newest = HeaderOf(*mapping_).latest.load(std::memory_order_acquire);
  last_ = newest == 0 ? 0 : newest - 1;
  return absl::OkStatus();
}

// In a forked child: the same channel by a session of the child's own. One that has ended meanwhile stays as it is.
absl::Status ChannelReader::PrepareInThisProcess() {
  if (mapping_->OfThisProcess() || HeaderOf(*mapping_).closed.load(std::memory_order_acquire) != 0) return absl::OkStatus();
  const MutableMapping::Request request{.kind = MutableKind::kChannel, .name = name_, .shape = {}};
  absl::StatusOr<std::shared_ptr<MutableMapping>> opened =
      MutableMapping::Open(connection_.get(), request, absl::ZeroDuration());
  if (absl::IsNotFound(opened.status())) return absl::OkStatus();
  if (!opened.ok()) return opened.status();
  if ((*opened)->info().segment == mapping_->info().segment) mapping_ = *std::move(opened);
  return absl::OkStatus();
}

bool ChannelReader::closed() const { return !Ended().ok(); }

absl::Status ChannelReader::Ended() const {
  if (HeaderOf(*mapping_).closed.load(std::memory_order_acquire) != 0) {
    return absl::UnavailableError(StrCat("channel \"", name_, "\": its writer has closed it or died; subscribe again when there is a new one"));
  }
  return mapping_->CheckSession();
}

absl::Status ChannelReader::Away() const {
  if (HeaderOf(*mapping_).away.load(std::memory_order_acquire) == 0) return absl::OkStatus();
  const char* home = mapping_->info().home;
  return absl::UnavailableError(StrCat("channel \"", name_, "\": the node that has it, ", std::string(home, strnlen(home, sizeof(mapping_->info().home))),
                                       ", is not heard; it goes on when that is back"));
}

bool ChannelReader::Take(uint64_t seq, ChannelStep* step) const {
  if (SeqOf(*mapping_, seq).load(std::memory_order_acquire) != 2 * seq) return false;
  step->mapping_ = mapping_;
  step->seq_ = seq;
  step->nbytes_ = nbytes_;
  step->data_ = reinterpret_cast<const std::byte*>(mapping_->memory()) + layout::ChannelDataOffset(slots_) +
                seq % slots_ * layout::ChannelStride(nbytes_);
  return true;
}

bool ChannelReader::TakeNewest(ChannelStep* step) {
  for (int i = 0; i < kMaxTries; ++i) {
    const uint64_t newest = HeaderOf(*mapping_).latest.load(std::memory_order_acquire);
    if (newest == 0) return false;
    if (!Take(newest, step)) continue;
    step->missed_ = newest > last_ ? newest - last_ - 1 : 0;
    last_ = std::max(last_, newest);
    return true;
  }
  return false;
}

bool ChannelReader::TakeNext(ChannelStep* step) {
  uint64_t seq = last_ + 1;
  for (int i = 0; i < kMaxTries; ++i) {
    const uint64_t newest = HeaderOf(*mapping_).latest.load(std::memory_order_acquire);
    if (newest < seq) return false;
    if (Take(seq, step)) {
      step->missed_ = seq - last_ - 1;
      last_ = seq;
      return true;
    }
    // The writer came round. Its next slot is that of newest + 1 - slots: what follows is whole.
    seq = std::max(seq + 1, newest + 2 > slots_ ? newest + 2 - slots_ : 0);
  }
  return false;
}

absl::StatusOr<ChannelStep> ChannelReader::Latest() {
  if (absl::Status s = PrepareInThisProcess(); !s.ok()) return s;
  absl::Status ended = Ended();  // before the look: a step that was written before the end is still given
  ended.Update(Away());
  const uint64_t before = last_;
  ChannelStep step;
  if (!TakeNewest(&step)) {
    if (!ended.ok()) return ended;
    if (HeaderOf(*mapping_).latest.load() != 0) return OverwrittenEachTime(name_);
    return absl::NotFoundError(StrCat("channel \"", name_, "\": no step was written yet"));
  }
  if (!ended.ok() && step.seq() <= before) return ended;
  return step;
}

absl::StatusOr<ChannelStep> ChannelReader::Next(absl::Duration timeout) {
  if (absl::Status s = PrepareInThisProcess(); !s.ok()) return s;
  std::optional<Deadline> deadline;  // the clock is not asked when the step is there
  while (true) {
    const uint32_t seen = HeaderOf(*mapping_).turns.load(std::memory_order_acquire);
    absl::Status ended = Ended();
    ended.Update(Away());
    ChannelStep step;
    if (TakeNext(&step)) return step;
    if (!ended.ok()) return ended;
    if (!deadline) deadline = Deadline::After(timeout);
    if (deadline->Passed()) {
      return absl::DeadlineExceededError(StrCat("channel \"", name_, "\": no step after ", last_, " within ", absl::FormatDuration(timeout)));
    }
    mapping_->turns().Await(HeaderOf(*mapping_).turns, seen, deadline->Slice(kSlice));
  }
}

absl::StatusOr<ChannelStep> ChannelReader::ReadInto(void* out, uint64_t out_bytes, const absl::Duration* timeout) {
  if (out_bytes != nbytes_) {
    return absl::InvalidArgumentError(StrCat("out: has ", out_bytes, " bytes, but a step of the channel \"", name_, "\" has ", nbytes_));
  }
  if (nbytes_ > 0 && out == nullptr) return absl::InvalidArgumentError("out: is null");
  const uint64_t before = last_;
  for (int i = 0; i < kMaxTries; ++i) {
    absl::StatusOr<ChannelStep> step = timeout == nullptr ? Latest() : Next(*timeout);
    if (!step.ok()) return step;
    if (nbytes_ > 0) std::memcpy(out, step->data(), nbytes_);
    if (!step->Ok()) continue;
    step->data_ = static_cast<const std::byte*>(out);
    step->missed_ = step->seq() > before ? step->seq() - before - 1 : 0;
    return step;
  }
  return OverwrittenEachTime(name_);
}

bool ChannelStep::Ok() const {
  std::atomic_thread_fence(std::memory_order_acquire);  // no look at a byte after the look at the sequence
  return SeqOf(*mapping_, seq_).load(std::memory_order_relaxed) == 2 * seq_;
}

}  // namespace penstock
