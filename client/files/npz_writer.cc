#include "client/files/npz_writer.h"

#include <zlib.h>

#include <utility>

#include "client/files/npy_header.h"
#include "client/files/zip_format.h"
#include "proto/names.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

constexpr uint16_t kVersion = 45;          // zip64, as np.savez says for every member
constexpr uint16_t kDosTime = 0;           // midnight
constexpr uint16_t kDosDate = 1 << 5 | 1;  // 1 January 1980, the first day that ZIP knows

struct Member {
  std::string file_name;
  uint32_t crc32;
  uint64_t size_bytes;
  uint64_t local_offset;
};

// The 26 bytes that local header and directory have in common, from "version needed" on. Sizes and
// offsets always stand in the zip64 field.
void AppendShared(const Member& member, uint16_t extra_bytes, std::string* out) {
  zip::Append<uint16_t>(out, kVersion);
  zip::Append<uint16_t>(out, zip::kFlagUtf8);
  zip::Append<uint16_t>(out, zip::kStored);
  zip::Append<uint16_t>(out, kDosTime);
  zip::Append<uint16_t>(out, kDosDate);
  zip::Append<uint32_t>(out, member.crc32);
  zip::Append<uint32_t>(out, zip::kIn64);
  zip::Append<uint32_t>(out, zip::kIn64);
  zip::Append<uint16_t>(out, static_cast<uint16_t>(member.file_name.size()));
  zip::Append<uint16_t>(out, extra_bytes);
}

std::string LocalHeader(const Member& member) {
  std::string out;
  zip::Append<uint32_t>(&out, zip::kLocalSignature);
  AppendShared(member, 20, &out);
  out += member.file_name;
  zip::Append<uint16_t>(&out, zip::kExtra64Id);
  zip::Append<uint16_t>(&out, 16);
  zip::Append<uint64_t>(&out, member.size_bytes);
  zip::Append<uint64_t>(&out, member.size_bytes);
  return out;
}

void AppendCentral(const Member& member, std::string* out) {
  zip::Append<uint32_t>(out, zip::kCentralSignature);
  zip::Append<uint16_t>(out, 3 << 8 | kVersion);  // made on Unix
  AppendShared(member, 28, out);
  zip::Append<uint16_t>(out, 0);                        // comment
  zip::Append<uint16_t>(out, 0);                        // disk
  zip::Append<uint16_t>(out, 0);                        // internal attributes
  zip::Append<uint32_t>(out, uint32_t{0100600} << 16);  // external: a regular file, rw-------
  zip::Append<uint32_t>(out, zip::kIn64);
  *out += member.file_name;
  zip::Append<uint16_t>(out, zip::kExtra64Id);
  zip::Append<uint16_t>(out, 24);
  zip::Append<uint64_t>(out, member.size_bytes);
  zip::Append<uint64_t>(out, member.size_bytes);
  zip::Append<uint64_t>(out, member.local_offset);
}

// The three end records: zip64's, its locator, and the old one that points to them.
std::string EndRecords(uint64_t count, uint64_t directory_offset, uint64_t directory_bytes) {
  std::string out;
  zip::Append<uint32_t>(&out, zip::kEnd64Signature);
  zip::Append<uint64_t>(&out, zip::kEnd64Bytes - 12);
  zip::Append<uint16_t>(&out, kVersion);
  zip::Append<uint16_t>(&out, kVersion);
  zip::Append<uint32_t>(&out, 0);
  zip::Append<uint32_t>(&out, 0);
  zip::Append<uint64_t>(&out, count);
  zip::Append<uint64_t>(&out, count);
  zip::Append<uint64_t>(&out, directory_bytes);
  zip::Append<uint64_t>(&out, directory_offset);
  zip::Append<uint32_t>(&out, zip::kLocator64Signature);
  zip::Append<uint32_t>(&out, 0);
  zip::Append<uint64_t>(&out, directory_offset + directory_bytes);
  zip::Append<uint32_t>(&out, 1);
  zip::Append<uint32_t>(&out, zip::kEndSignature);
  zip::Append<uint16_t>(&out, 0);
  zip::Append<uint16_t>(&out, 0);
  zip::Append<uint16_t>(&out, zip::kCountIn64);
  zip::Append<uint16_t>(&out, zip::kCountIn64);
  zip::Append<uint32_t>(&out, zip::kIn64);
  zip::Append<uint32_t>(&out, zip::kIn64);
  zip::Append<uint16_t>(&out, 0);
  return out;
}

}  // namespace

absl::StatusOr<NpzWriter> NpzWriter::Create(const std::string& path) {
  absl::StatusOr<AtomicFile> file = AtomicFile::Create(path);
  if (!file.ok()) return file.status();
  return NpzWriter(*std::move(file));
}

absl::Status NpzWriter::Add(std::string_view name, DType dtype, const Shape& shape,
                            absl::Span<const std::byte> data) {
  if (absl::Status status = ValidateName(name); !status.ok()) return status;
  const absl::StatusOr<std::string> header = FormatNpyHeader(dtype, shape);
  if (!header.ok()) {
    return absl::Status(header.status().code(),
                        StrCat("array \"", name, "\": ", header.status().message()));
  }
  const absl::StatusOr<uint64_t> bytes = ByteSize(dtype, shape);
  if (!bytes.ok()) return bytes.status();
  if (*bytes != data.size()) {
    return absl::InvalidArgumentError(
        StrCat("array \"", name, "\": data has ", data.size(), " bytes; its shape needs ", *bytes));
  }
  if (!names_.emplace(name).second) {
    return absl::InvalidArgumentError(StrCat("array \"", name, "\" comes twice"));
  }
  uLong crc = crc32_z(0, reinterpret_cast<const Bytef*>(header->data()), header->size());
  if (!data.empty()) {
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(data.data()), data.size());
  }
  const Member member{.file_name = StrCat(name, ".npy"),
                      .crc32 = static_cast<uint32_t>(crc),
                      .size_bytes = header->size() + data.size(),
                      .local_offset = file_.size_bytes()};
  AppendCentral(member, &directory_);
  for (const std::string& part : {LocalHeader(member), *header}) {
    if (absl::Status status = file_.Write(part); !status.ok()) return status;
  }
  return file_.Write(data);
}

absl::Status NpzWriter::Finish() {
  const uint64_t offset = file_.size_bytes();
  if (absl::Status status = file_.Write(directory_); !status.ok()) return status;
  if (absl::Status status = file_.Write(EndRecords(names_.size(), offset, directory_.size()));
      !status.ok()) {
    return status;
  }
  return file_.Commit();
}

}  // namespace penstock
