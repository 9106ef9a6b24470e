#include "client/private_tensor.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "client/session/session.h"
#include "proto/layout/metadata_codec.h"

namespace penstock::client {

absl::StatusOr<PrivateTensor::Pointer> PrivateTensor::Make(const v1::TensorInfo& info, uint64_t bytes) {
  absl::StatusOr<Mapping> memory = Mapping::MapAnonymous(std::max<uint64_t>(bytes, 1));
  if (!memory.ok()) return memory.status();
  const std::string metadata = layout::EncodeMetadata({info.metadata().begin(), info.metadata().end()});
  const auto rank = static_cast<uint32_t>(std::min<int>(info.shape_size(), kMaxRank));
  const uint64_t record_bytes = layout::RecordBytes(rank, static_cast<uint32_t>(info.name().size()), static_cast<uint32_t>(metadata.size()));
  void* block = ::operator new(sizeof(PrivateTensor) + record_bytes, std::align_val_t{alignof(PrivateTensor)});
  Pointer tensor(new (block) PrivateTensor);
  if (info.nodes_size() > 0) tensor->node_ = info.nodes(0);
  tensor->memory_ = *std::move(memory);
  auto* record = new (tensor->record()) layout::Record{};
  record->version_number = info.version().number();
  record->version_term = info.version().term();
  record->nbytes = info.nbytes();
  record->created_ns = info.created_ns();
  record->name_bytes = static_cast<uint16_t>(info.name().size());
  record->metadata_bytes = static_cast<uint16_t>(metadata.size());
  record->dtype = static_cast<uint8_t>(info.dtype());
  record->rank = static_cast<uint8_t>(rank);
  record->flags = layout::kRecordPrivate | (info.keep() ? layout::kRecordKeep : 0) | (info.soft_pin() ? layout::kRecordSoftPin : 0) |
                  (info.immutable() == "kernel" ? layout::kRecordKernelImmutable : 0);
  record->expires_ns = info.expires_ns();
  record->replicas = static_cast<uint16_t>(info.replicas());
  char* at = reinterpret_cast<char*>(record) + layout::kRecordFixedBytes;
  std::memcpy(at, info.shape().data(), 8 * rank);
  at += 8 * rank;
  std::memcpy(at, info.name().data(), info.name().size());
  std::memcpy(at + info.name().size(), metadata.data(), metadata.size());
  return tensor;
}

void Session::ReleasePrivate(const layout::Record* record) { PrivateTensor::Of(record)->Unref(); }

void PrivateTensor::Unref() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  this->~PrivateTensor();
  ::operator delete(this, std::align_val_t{alignof(PrivateTensor)});
}

TensorView PrivateTensor::View(Pointer tensor, Session* session, std::string path, const Shape& shape) {
  tensor->path_ = std::move(path);
  (void)tensor->memory_.Protect(/*writable=*/false);  // a view's memory is read-only; without that it still is right
  TensorView view;
  session->Ref();
  view.session_ = session;
  view.pin_ = PinTable::kNoSlot;
  view.whole_ = false;
  view.shape_ = shape;
  view.data_ = reinterpret_cast<const std::byte*>(tensor->data());
  auto stride = static_cast<int64_t>(ItemSize(static_cast<DType>(tensor->record()->dtype)));
  for (int i = shape.rank() - 1; i >= 0; --i) {
    view.strides_[i] = stride;
    if (shape.dim(i) != 0) stride *= shape.dim(i);
  }
  view.record_ = tensor.release()->record();
  return view;
}

}  // namespace penstock::client
