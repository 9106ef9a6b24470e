// Channels: opening, and the writer's side.
#include <penstock/client.h>

#include <cstring>
#include <utility>

#include "client/connection.h"
#include "client/session/mutable_mapping.h"
#include "proto/layout/channel_layout.h"
#include "proto/strcat.h"
#include "transport/copy/copy.h"
#include "transport/fault_point.h"
#include "transport/futex.h"

namespace penstock {

using client::MutableMapping;
using layout::MutableKind;

absl::StatusOr<ChannelWriter> Client::OpenChannel(std::string_view name, DType dtype, const Shape& shape,
                                                  const ChannelOptions& options) {
  if (options.slots < layout::kMinSlots || options.slots > layout::kMaxSlots) {
    return absl::InvalidArgumentError(
        StrCat("slots: is ", options.slots, "; allowed are ", layout::kMinSlots, " to ", layout::kMaxSlots));
  }
  const absl::StatusOr<uint64_t> nbytes = ByteSize(dtype, shape);
  if (!nbytes.ok()) return nbytes.status();
  const MutableMapping::Request request{.kind = MutableKind::kChannel, .create = true, .name = name, .nbytes = *nbytes,
                                        .slots = options.slots, .dtype = dtype, .shape = shape};
  absl::StatusOr<std::shared_ptr<MutableMapping>> opened =
      MutableMapping::Open(connection_.get(), request, absl::ZeroDuration());
  if (!opened.ok()) return opened.status();
  ChannelWriter writer;
  writer.mapping_ = *std::move(opened);
  writer.name_ = std::string(name);
  writer.dtype_ = dtype;
  writer.shape_ = shape;
  writer.nbytes_ = *nbytes;
  writer.slots_ = options.slots;
  return writer;
}

ChannelWriter& ChannelWriter::operator=(ChannelWriter&& other) noexcept {
  if (this == &other) return *this;
  Close();
  mapping_ = std::move(other.mapping_);
  name_ = std::move(other.name_);
  dtype_ = other.dtype_;
  shape_ = other.shape_;
  nbytes_ = other.nbytes_;
  slots_ = other.slots_;
  return *this;
}

uint64_t ChannelWriter::seq() const {
  if (mapping_ == nullptr || !mapping_->OfThisProcess()) return 0;
  return layout::ChannelHeaderAt(mapping_->memory())->latest.load(std::memory_order_relaxed);
}

bool ChannelWriter::closed() const { return mapping_ == nullptr || !mapping_->CheckSession().ok(); }

absl::Status ChannelWriter::CheckOpen(const char* operation) const {
  if (mapping_ == nullptr) return absl::FailedPreconditionError(StrCat(operation, ": the channel \"", name_, "\" was closed"));
  if (!mapping_->OfThisProcess()) {
    return absl::FailedPreconditionError(
        StrCat(operation, ": the channel \"", name_, "\" belongs to the process that forked; open one of its own"));
  }
  return mapping_->CheckSession();
}

absl::StatusOr<ChannelSlot> ChannelWriter::Begin() {
  if (absl::Status s = CheckOpen("write"); !s.ok()) return s;
  char* const memory = mapping_->memory();
  const uint64_t seq = layout::ChannelHeaderAt(memory)->latest.load(std::memory_order_relaxed) + 1;
  const uint64_t place = seq % slots_;
  std::atomic<uint64_t>& word = layout::ChannelSlots(memory)[place].seq;
  if (word.load(std::memory_order_relaxed) == 2 * seq - 1) {
    return absl::FailedPreconditionError(
        StrCat("write: a step of the channel \"", name_, "\" is being written already; end that one first"));
  }
  word.store(2 * seq - 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);  // no byte of the step before the odd sequence
  PENSTOCK_FAULT_POINT("client.channel.begun");
  return ChannelSlot(mapping_, seq, memory + layout::ChannelDataOffset(slots_) + place * layout::ChannelStride(nbytes_),
                     nbytes_);
}

absl::StatusOr<uint64_t> ChannelSlot::Commit() && {
  const std::shared_ptr<MutableMapping> mapping = std::move(mapping_);
  if (mapping == nullptr) return absl::FailedPreconditionError("commit: the step was committed or aborted before");
  if (!mapping->OfThisProcess()) {
    return absl::FailedPreconditionError("commit: the step belongs to the process that forked");
  }
  layout::ChannelHeader* header = layout::ChannelHeaderAt(mapping->memory());
  if (header->closed.load(std::memory_order_relaxed) != 0) return absl::UnavailableError("commit: the channel was closed");
  layout::ChannelSlots(mapping->memory())[seq_ % mapping->info().slots].seq.store(2 * seq_, std::memory_order_release);
  PENSTOCK_FAULT_POINT("client.channel.written");
  header->latest.store(seq_, std::memory_order_release);
  header->turns.fetch_add(1);  // seq_cst: before the look whether somebody elsewhere reads
  FutexWake(&header->turns);
  mapping->RingBell();
  return seq_;
}

void ChannelSlot::Abort() {
  const std::shared_ptr<MutableMapping> mapping = std::move(mapping_);
  if (mapping == nullptr || !mapping->OfThisProcess()) return;
  layout::ChannelSlots(mapping->memory())[seq_ % mapping->info().slots].seq.store(0, std::memory_order_release);
}

absl::StatusOr<uint64_t> ChannelWriter::Put(const ConstTensorRef& tensor) {
  if (tensor.dtype != dtype_) {
    return absl::InvalidArgumentError(StrCat("dtype: is ", DTypeName(tensor.dtype), ", but the channel \"", name_,
                                             "\" is of ", DTypeName(dtype_)));
  }
  if (!(tensor.shape == shape_)) {
    return absl::InvalidArgumentError(StrCat("shape: is ", tensor.shape.ToString(), ", but the channel \"", name_,
                                             "\" is of ", shape_.ToString()));
  }
  absl::StatusOr<ChannelSlot> slot = Begin();
  if (!slot.ok()) return slot.status();
  if (nbytes_ > 0) {
    if (tensor.data == nullptr) return absl::InvalidArgumentError("data: is null");
    const Strides dense = ContiguousStrides(dtype_, shape_);
    const absl::Span<const int64_t> strides = tensor.strides.empty() ? dense.span() : absl::MakeConstSpan(tensor.strides);
    if (strides == dense.span()) {
      std::memcpy(slot->data(), tensor.data, nbytes_);  // not streamed past the caches: somebody reads it at once
    } else if (absl::Status s = CopyStrided({.dst = slot->data(), .src = tensor.data, .shape = shape_.dims(),
                                             .dst_strides = dense.span(), .src_strides = strides,
                                             .itemsize = ItemSize(dtype_)});
               !s.ok()) {
      return s;
    }
  }
  return (*std::move(slot)).Commit();
}

void ChannelWriter::Close() {
  const std::shared_ptr<MutableMapping> mapping = std::move(mapping_);
  if (mapping == nullptr || !mapping->OfThisProcess()) return;
  layout::ChannelHeader* header = layout::ChannelHeaderAt(mapping->memory());
  header->closed.store(1, std::memory_order_release);
  header->turns.fetch_add(1, std::memory_order_release);
  FutexWake(&header->turns);
  mapping->GiveUpName();
}

}  // namespace penstock
