#include "client/files/npy.h"

#include <new>
#include <utility>

#include "client/files/atomic_file.h"
#include "client/files/fortran_order.h"
#include "client/files/npy_header.h"
#include "proto/strcat.h"

namespace penstock {

absl::StatusOr<NpyArray> NpyArray::Open(const std::string& path) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<NpyArray> array = Parse(file->bytes());
  if (!array.ok()) {
    return absl::Status(array.status().code(), StrCat(path, ": ", array.status().message()));
  }
  array->file_ = *std::move(file);
  return array;
}

absl::StatusOr<NpyArray> NpyArray::Parse(absl::Span<const std::byte> bytes) {
  const absl::StatusOr<NpyHeader> header = ParseNpyHeader(bytes);
  if (!header.ok()) return header.status();
  const absl::Span<const std::byte> data = bytes.subspan(header->header_bytes);
  if (data.size() != header->data_bytes) {
    return absl::InvalidArgumentError(
        StrCat("npy: ", data.size(), " bytes follow the header; ", header->shape.ToString(), " of ",
               DTypeName(header->dtype), " needs ", header->data_bytes));
  }
  NpyArray array;
  array.dtype_ = header->dtype;
  array.shape_ = header->shape;
  array.data_ = data;
  if (header->fortran_order && header->shape.rank() > 1 && !data.empty()) {
    array.buffer_.reset(new (std::nothrow) std::byte[data.size()]);
    if (array.buffer_ == nullptr) {
      return absl::ResourceExhaustedError(
          StrCat("npy: no memory for ", data.size(), " bytes to turn Fortran into C order"));
    }
    FortranToC(header->shape, ItemSize(header->dtype), data.data(), array.buffer_.get());
    array.data_ = {array.buffer_.get(), data.size()};
  }
  return array;
}

absl::StatusOr<NpyArray> NpyArray::Adopt(std::unique_ptr<std::byte[]> buffer, size_t size) {
  absl::StatusOr<NpyArray> array = Parse({buffer.get(), size});
  // A converted array has its own buffer and needs this one no longer.
  if (array.ok() && array->buffer_ == nullptr) array->buffer_ = std::move(buffer);
  return array;
}

absl::Status WriteNpy(const std::string& path, DType dtype, const Shape& shape,
                      absl::Span<const std::byte> data) {
  const absl::StatusOr<std::string> header = FormatNpyHeader(dtype, shape);
  if (!header.ok()) return header.status();
  const absl::StatusOr<uint64_t> bytes = ByteSize(dtype, shape);
  if (!bytes.ok()) return bytes.status();
  if (*bytes != data.size()) {
    return absl::InvalidArgumentError(
        StrCat("npy: data has ", data.size(), " bytes; its shape needs ", *bytes));
  }
  absl::StatusOr<AtomicFile> file = AtomicFile::Create(path);
  if (!file.ok()) return file.status();
  if (absl::Status status = file->Write(*header); !status.ok()) return status;
  if (absl::Status status = file->Write(data); !status.ok()) return status;
  return file->Commit();
}

}  // namespace penstock
