// The element types of tensors, and what the rest of the world calls them.
//
//   auto dtype = ParseDType("torch.bfloat16");   // kBF16; so do "bf16" and "bfloat16"
//   DTypeName(*dtype)                            // "bf16"
//
// Used by every layer: records and messages carry the number, users type the name, files and array
// protocols use the names of DTypeTraits. Bytes are little endian everywhere.
//
// Threading:  any thread; constant tables.
// Ownership:  names are literals.
// Errors:     INVALID_ARGUMENT for a name that is not known, with the names that are.
// Limits:     two types are not one value in whole bytes. One element of f4_e2m1x2 is a byte that
// holds
//             two values, as torch has it. Elements of f6_* have 6 bits, packed as safetensors
//             packs them: such a tensor has a whole number of bytes, but no itemsize, strides or
//             boxes.
#ifndef PENSTOCK_DTYPE_H_
#define PENSTOCK_DTYPE_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace penstock {

// The numbers are wire format and never change; new types are appended.
enum class DType : uint8_t {
  kInvalid = 0,
  kBool = 1,
  kI8 = 2,
  kI16 = 3,
  kI32 = 4,
  kI64 = 5,
  kU8 = 6,
  kU16 = 7,
  kU32 = 8,
  kU64 = 9,
  kF16 = 10,
  kBF16 = 11,
  kF32 = 12,
  kF64 = 13,
  kC64 = 14,
  kC128 = 15,
  kF8E4M3FN = 16,
  kF8E5M2 = 17,
  kF8E4M3FNUZ = 18,
  kF8E5M2FNUZ = 19,
  kF8E8M0FNU = 20,
  kF4E2M1X2 = 21,
  kF6E2M3 = 22,
  kF6E3M2 = 23,
};

// The largest number in use.
inline constexpr uint8_t kMaxDType = 23;

// DLPack's triple; code as in dlpack.h.
struct DLPackType {
  uint8_t code = 0;
  uint8_t bits = 0;
  uint16_t lanes = 1;
};

// What is known about one type. Text is empty where that world has no such type.
struct DTypeTraits {
  DType dtype = DType::kInvalid;
  std::string_view name;         // ours: "f32"
  std::string_view long_name;    // NumPy's, ml_dtypes' or torch's: "float32"
  std::string_view safetensors;  // "F32"
  std::string_view typestr;      // NumPy's: "<f4"; "|V2" for bf16 and the like
  std::string_view pep3118;      // buffer protocol: "f"
  DLPackType dlpack;
  uint8_t item_bytes = 0;  // 0: elements are not whole bytes (f6_*)
  uint8_t bits = 0;        // bits of one element of the array
};

// False for kInvalid and for numbers that are not in the list: check what comes from outside.
constexpr bool IsValid(DType dtype) {
  return dtype != DType::kInvalid && static_cast<uint8_t>(dtype) <= kMaxDType;
}

// The row of a type; the row of kInvalid for what is not valid.
const DTypeTraits& TraitsOf(DType dtype);

// All valid types, by number.
absl::Span<const DTypeTraits> AllDTypes();

// "f32"; "invalid" for what is not valid.
std::string_view DTypeName(DType dtype);

// Bytes of one element of the array; 0 for f6_* and for what is not valid.
size_t ItemSize(DType dtype);

// Bits of one element of the array: 8 * ItemSize, or 6.
int BitsPerElement(DType dtype);

// Takes our names, NumPy's, ml_dtypes' and torch's with or without the module ("float32",
// "np.float32", "torch.bfloat16", "<class 'numpy.float32'>"), and NumPy's type strings ("<f4").
// Big-endian type strings are refused.
absl::StatusOr<DType> ParseDType(std::string_view text);

// The inverse of DTypeTraits::safetensors; "F4" is kF4E2M1X2 (whose last dimension is half of the
// file's).
absl::StatusOr<DType> DTypeFromSafetensors(std::string_view name);

// The inverse of DTypeTraits::dlpack.
absl::StatusOr<DType> DTypeFromDLPack(const DLPackType& type);

}  // namespace penstock

#endif  // PENSTOCK_DTYPE_H_
