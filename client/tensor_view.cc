// TensorView: what a pinned record shows.
#include <penstock/client.h>

#include <algorithm>
#include <utility>

#include "client/info.h"
#include "client/part.h"
#include "client/private_tensor.h"
#include "client/session/session.h"
#include "proto/strcat.h"
#include "transport/fault_point.h"

namespace penstock {
namespace {

// Blocks from here up share no page with another (ARCHITECTURE.md, "Blocks").
constexpr uint64_t kOwnPagesBytes = 32 << 10;
constexpr uint64_t kPageBytes = 4096;

const layout::Record* RecordOf(const void* record) {
  return static_cast<const layout::Record*>(record);
}

}  // namespace

TensorView::TensorView(TensorView&& other) noexcept
    : session_(std::exchange(other.session_, nullptr)),
      record_(other.record_),
      data_(other.data_),
      private_data_(std::exchange(other.private_data_, nullptr)),
      pin_(other.pin_),
      whole_(other.whole_),
      shape_(other.shape_) {
  std::copy_n(other.strides_, shape_.rank(), strides_);
}

TensorView& TensorView::operator=(TensorView&& other) noexcept {
  if (this == &other) return *this;
  Release();
  session_ = std::exchange(other.session_, nullptr);
  record_ = other.record_;
  data_ = other.data_;
  private_data_ = std::exchange(other.private_data_, nullptr);
  pin_ = other.pin_;
  whole_ = other.whole_;
  shape_ = other.shape_;
  std::copy_n(other.strides_, shape_.rank(), strides_);
  return *this;
}

void TensorView::Release() {
  if (session_ == nullptr) return;
  client::Session* session = std::exchange(session_, nullptr);
  if (private_data_ != nullptr) {
    const layout::Record* record = RecordOf(record_);
    session->segments().DropPrivate(record->segment, record->offset, record->nbytes);
    private_data_ = nullptr;
    PENSTOCK_FAULT_POINT("client.release.dropped");
  }
  data_ = nullptr;
  PENSTOCK_FAULT_POINT("client.release.before");
  session->Release({RecordOf(record_), pin_});
  PENSTOCK_FAULT_POINT("client.release.after");
  record_ = nullptr;
  session->Unref();
}

std::string_view TensorView::path() const {
  if (record_ == nullptr) return "";
  if (pin_ == client::PinTable::kNoSlot) return client::PrivateTensor::Of(RecordOf(record_))->path();
  return (static_cast<const layout::Record*>(record_)->flags & layout::kRecordFetched) != 0 ? "fetch" : "map";
}

std::string_view TensorView::name() const {
  if (!valid()) return {};
  return layout::NameOf(RecordOf(record_));
}

Version TensorView::version() const {
  if (!valid()) return {};
  return {RecordOf(record_)->version_term, RecordOf(record_)->version_number};
}

DType TensorView::dtype() const {
  return valid() ? static_cast<DType>(RecordOf(record_)->dtype) : DType::kInvalid;
}

uint64_t TensorView::nbytes() const {
  if (!valid()) return 0;
  if (whole_) return RecordOf(record_)->nbytes;
  return static_cast<uint64_t>(shape_.num_elements()) * ItemSize(dtype());
}

bool TensorView::contiguous() const {
  if (!valid()) return false;
  if (whole_) return true;
  auto expected = static_cast<int64_t>(ItemSize(dtype()));
  for (int i = shape_.rank() - 1; i >= 0; --i) {
    if (shape_.dim(i) == 0) return true;
    if (shape_.dim(i) != 1 && strides_[i] != expected) return shape_.num_elements() == 0;
    expected *= shape_.dim(i);
  }
  return true;
}

absl::Span<const std::byte> TensorView::bytes() const {
  if (!contiguous()) return {};
  return {data_, static_cast<size_t>(nbytes())};
}

Metadata TensorView::metadata() const {
  return valid() ? client::MetadataOf(RecordOf(record_)) : Metadata{};
}

TensorInfo TensorView::info() const {
  if (!valid()) return {};
  const layout::Record* record = RecordOf(record_);
  return client::InfoOf(record, pin_ == client::PinTable::kNoSlot ? client::PrivateTensor::Of(record)->node()
                                                                  : session_->catalog().node_uuid());
}

absl::Status TensorView::CheckAs(DType dtype, size_t item_bytes) const {
  if (!valid()) return absl::FailedPreconditionError("As: the view was released");
  if (this->dtype() != dtype) {
    return absl::InvalidArgumentError(StrCat("As: tensor \"", name(), "\" has dtype ",
                                             DTypeName(this->dtype()), ", not ",
                                             DTypeName(dtype)));
  }
  if (!contiguous()) {
    return absl::InvalidArgumentError(
        StrCat("As: this view of \"", name(), "\" has gaps; walk it by its strides"));
  }
  if (reinterpret_cast<uintptr_t>(data_) % item_bytes != 0) {
    return absl::InternalError(StrCat("As: \"", name(), "\" lies at an odd address"));
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorView> TensorView::Slice(const Box& box) const {
  if (!valid()) return absl::FailedPreconditionError("slice: the view was released");
  if (absl::Status s = ValidateBox(box, shape_); !s.ok()) return s;
  if (box.IsWhole(shape_)) return Clone();
  if (ItemSize(dtype()) == 0) {
    return absl::InvalidArgumentError(StrCat("slice: elements of dtype ", DTypeName(dtype()),
                                             " are not whole bytes; only whole tensors can be had"));
  }
  uint64_t offset = 0;
  for (int i = 0; i < shape_.rank(); ++i) offset += static_cast<uint64_t>(box.offset[i] * strides_[i]);
  return SliceUnchecked(offset, box.shape(), strides());
}

absl::StatusOr<TensorView> TensorView::Slice(const Part& part) const {
  if (!valid()) return absl::FailedPreconditionError("slice: the view was released");
  if (!whole_) return absl::FailedPreconditionError("slice: a part can be had of a view of a whole tensor only");
  if (absl::Status s = client::CheckPart(part, dtype(), shape_); !s.ok()) return s;
  return SliceUnchecked(part.offset_bytes, part.shape, part.strides);
}

absl::StatusOr<TensorView> TensorView::SliceUnchecked(uint64_t offset, const Shape& shape, absl::Span<const int64_t> strides) const {
  absl::StatusOr<TensorView> slice = Clone();
  if (!slice.ok()) return slice;
  if (shape.num_elements() > 0) slice->data_ += offset;
  slice->shape_ = shape;
  std::copy(strides.begin(), strides.end(), slice->strides_);
  slice->whole_ = false;
  return slice;
}

absl::StatusOr<TensorView> TensorView::Clone() const {
  if (!valid()) return absl::FailedPreconditionError("clone: the view was released");
  if (pin_ == client::PinTable::kNoSlot) {
    client::PrivateTensor::Of(RecordOf(record_))->Ref();
  } else {
    session_->pins().Share(pin_);
  }
  session_->Ref();
  TensorView clone;
  clone.session_ = session_;
  clone.record_ = record_;
  clone.data_ = data_;
  clone.pin_ = pin_;
  clone.whole_ = whole_;
  clone.shape_ = shape_;
  std::copy_n(strides_, shape_.rank(), clone.strides_);
  return clone;
}

absl::StatusOr<std::byte*> TensorView::CopyOnWriteData() {
  if (!valid()) return absl::FailedPreconditionError("copy-on-write: the view was released");
  if (private_data_ != nullptr) return private_data_;
  const layout::Record* record = RecordOf(record_);
  if (!whole_) {
    return absl::FailedPreconditionError("copy-on-write: only views of whole tensors; copy the box");
  }
  if (record->nbytes < kOwnPagesBytes || record->offset % kPageBytes != 0) {
    return absl::FailedPreconditionError(
        StrCat("copy-on-write: \"", name(), "\" (", record->nbytes,
               " bytes) shares memory pages with other tensors; copy it"));
  }
  absl::StatusOr<std::byte*> data =
      session_->segments().Private(record->segment, record->offset, record->nbytes,
                                   client::Deadline::After(absl::Seconds(5)));
  if (!data.ok()) return data;
  private_data_ = *data;
  PENSTOCK_FAULT_POINT("client.copy_on_write.mapped");
  return data;
}

}  // namespace penstock
