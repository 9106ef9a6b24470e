// The structs of DLPack 1.x, as far as a producer and consumer of host tensors needs them.
//
// Debian's libdlpack-dev is 0.6, which has neither versions nor flags; the layout below is that of
// dlpack.h 1.1 (github.com/dmlc/dlpack, include/dlpack/dlpack.h).
//
// Threading:  plain structs.
// Ownership:  whoever holds a managed tensor calls its deleter once, on any thread.
// Errors:     a consumer that meets another major version may only call the deleter.
// Limits:     element codes are those of penstock::DLPackType.
#pragma once

#include <cstddef>
#include <cstdint>

namespace penstock::python {

struct DLDevice {
  int32_t device_type;
  int32_t device_id;
};
inline constexpr int32_t kDLCPU = 1;
inline constexpr int32_t kDLCUDAHost = 3;

struct DLDataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null = C order
  uint64_t byte_offset;
};

struct DLManagedTensor {  // legacy: capsule "dltensor"
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};

struct DLPackVersion {
  uint32_t major;
  uint32_t minor;
};

struct DLManagedTensorVersioned {  // capsule "dltensor_versioned"
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned* self);
  uint64_t flags;
  DLTensor dl_tensor;
};
inline constexpr uint64_t kDLFlagReadOnly = 1;
inline constexpr uint64_t kDLFlagIsCopied = 2;

static_assert(sizeof(DLTensor) == 48 && offsetof(DLTensor, byte_offset) == 40);
static_assert(offsetof(DLManagedTensorVersioned, dl_tensor) == 32);

}  // namespace penstock::python
