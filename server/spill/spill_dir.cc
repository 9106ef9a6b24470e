#include "server/spill/spill_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "proto/errors.h"
#include "proto/strcat.h"
#include "transport/checksum/crc32c.h"
#include "transport/fault_point.h"

namespace penstock::server {

namespace {

constexpr uint64_t kFileMagic = 0x314c4c4950534e50;  // "PNSPILL1"
constexpr uint32_t kFileFormat = 1;
constexpr uint64_t kPiece = uint64_t{4} << 20;
constexpr uint64_t kDataAlignment = 4096;
constexpr uint32_t kMaxInfoBytes = 1 << 20;
constexpr std::string_view kWhole = ".tensor";
constexpr std::string_view kUnfinished = ".writing";
constexpr std::string_view kBad = ".bad";

struct FileHeader {
  uint64_t magic;
  uint32_t format;
  uint32_t info_bytes;
  uint64_t number;
  uint64_t nbytes;
  uint64_t data_offset;
  uint32_t data_crc;
  uint32_t reserved0;
  uint64_t reserved1;
  uint32_t reserved2;
  uint32_t header_crc;  // of all before it, and of the info
};
static_assert(sizeof(FileHeader) == 64 && offsetof(FileHeader, header_crc) == 60);

uint32_t HeaderCrc(const FileHeader& header, std::string_view info) {
  return ExtendCrc32c(Crc32c(&header, offsetof(FileHeader, header_crc)), info.data(), info.size());
}

uint64_t DataOffset(uint64_t info_bytes) { return (sizeof(FileHeader) + info_bytes + kDataAlignment - 1) / kDataAlignment * kDataAlignment; }

std::string FileName(uint64_t number, std::string_view ending) {
  std::array<char, 24> digits;
  snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(number));
  return StrCat(digits.data(), std::string(ending));
}

// Of a file of ours with that ending.
std::optional<uint64_t> NumberOf(std::string_view name, std::string_view ending) {
  if (name.size() != 16 + ending.size() || name.substr(16) != ending) return std::nullopt;
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + 16, number, 16);
  if (error != std::errc() || end != name.data() + 16 || FileName(number, ending) != name) return std::nullopt;
  return number;
}

std::vector<std::string> NamesIn(int folder) {
  std::vector<std::string> names;
  UniqueFd again(openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  DIR* const listing = again ? fdopendir(again.get()) : nullptr;
  if (listing == nullptr) return names;
  (void)again.release();
  while (const dirent* entry = readdir(listing)) names.emplace_back(entry->d_name);
  closedir(listing);
  return names;
}

absl::Status DiskError(int error, const std::string& what) {
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) return absl::ResourceExhaustedError(StrCat(what, ": ", strerror(error)));
  return absl::UnavailableError(StrCat(what, ": ", strerror(error)));
}

absl::Status WriteAll(int file, const char* data, uint64_t bytes, uint64_t offset, const std::string& path) {
  while (bytes > 0) {
    const ssize_t n = pwrite(file, data, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return DiskError(n < 0 ? errno : ENOSPC, StrCat("write ", path));
    data += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status ReadAll(int file, char* to, uint64_t bytes, uint64_t offset, const std::string& path) {
  while (bytes > 0) {
    const ssize_t n = pread(file, to, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EIO) return DiskError(errno, StrCat("read ", path));
    if (n <= 0) return absl::DataLossError(StrCat(path, n == 0 ? ": it ends too early" : ": the disk cannot read it"));
    to += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

std::string Encode(const v1::TensorInfo& info) {
  v1::TensorInfo kept = info;
  kept.clear_location();
  kept.clear_nodes();
  kept.clear_placements();
  kept.set_spilled(true);
  return kept.SerializeAsString();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SpillDir>> SpillDir::Open(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoStatus(errno, StrCat("flag --spill_dir: mkdir ", path));
  UniqueFd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return ErrnoStatus(errno, StrCat("flag --spill_dir: open ", path));
  if (faccessat(folder.get(), ".", W_OK | X_OK, AT_EACCESS) != 0) return ErrnoStatus(errno, StrCat("flag --spill_dir: write to ", path));
  for (const std::string& name : NamesIn(folder.get())) {
    if (NumberOf(name, kUnfinished)) unlinkat(folder.get(), name.c_str(), 0);
  }
  return std::unique_ptr<SpillDir>(new SpillDir(path, std::move(folder)));
}

std::string SpillDir::PathOf(uint64_t number) const { return StrCat(path_, "/", FileName(number, kWhole)); }

uint64_t SpillDir::FileBytes(const v1::TensorInfo& info) { return DataOffset(Encode(info).size()) + info.nbytes(); }

std::vector<SpillDir::File> SpillDir::Scan() {
  std::vector<File> files;
  for (const std::string& name : NamesIn(folder_.get())) {
    const std::optional<uint64_t> number = NumberOf(name, kWhole);
    if (!number) continue;
    const UniqueFd file(openat(folder_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    uint64_t data_offset = 0;
    uint32_t data_crc = 0;
    absl::StatusOr<File> header = file ? ReadHeader(*number, file, &data_offset, &data_crc) : DiskError(errno, name);
    if (header.ok() && header->bytes == data_offset + header->info.nbytes()) {
      used_bytes_ += header->bytes;
      files.push_back(*std::move(header));
    } else if (header.ok() || absl::IsDataLoss(header.status())) {
      struct stat about {};
      if (file && fstat(file.get(), &about) == 0) used_bytes_ += static_cast<uint64_t>(about.st_size);  // SetAside takes it off
      SetAside(*number);
    }
  }
  return files;
}

absl::StatusOr<SpillDir::File> SpillDir::ReadHeader(uint64_t number, const UniqueFd& file, uint64_t* data_offset, uint32_t* data_crc) const {
  const std::string path = PathOf(number);
  FileHeader header{};
  if (absl::Status s = ReadAll(file.get(), reinterpret_cast<char*>(&header), sizeof(header), 0, path); !s.ok()) return s;
  const absl::Status bad = absl::DataLossError(StrCat(path, ": its header is not what was written"));
  if (header.magic != kFileMagic || header.format != kFileFormat || header.number != number || header.info_bytes > kMaxInfoBytes ||
      header.data_offset != DataOffset(header.info_bytes)) {
    return bad;
  }
  std::string info(header.info_bytes, '\0');
  if (absl::Status s = ReadAll(file.get(), info.data(), info.size(), sizeof(header), path); !s.ok()) return s;
  File found{.number = number, .bytes = 0, .info = {}};
  if (HeaderCrc(header, info) != header.header_crc || !found.info.ParseFromString(info) || found.info.nbytes() != header.nbytes) return bad;
  struct stat about {};
  if (fstat(file.get(), &about) != 0) return DiskError(errno, StrCat("stat ", path));
  found.bytes = static_cast<uint64_t>(about.st_size);
  *data_offset = header.data_offset;
  *data_crc = header.data_crc;
  return found;
}

absl::Status SpillDir::Write(uint64_t number, const v1::TensorInfo& info, const char* data) {
  const std::string unfinished = FileName(number, kUnfinished);
  const std::string path = StrCat(path_, "/", unfinished);
  const std::string text = Encode(info);
  FileHeader header{.magic = kFileMagic, .format = kFileFormat, .info_bytes = static_cast<uint32_t>(text.size()), .number = number,
                    .nbytes = info.nbytes(), .data_offset = DataOffset(text.size()), .data_crc = 0, .reserved0 = 0, .reserved1 = 0,
                    .reserved2 = 0, .header_crc = 0};
  const UniqueFd file(openat(folder_.get(), unfinished.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return DiskError(errno, StrCat("make ", path));
  absl::Status status;
  for (uint64_t done = 0; status.ok() && done < info.nbytes(); done += kPiece) {
    const uint64_t piece = std::min(kPiece, info.nbytes() - done);
    header.data_crc = ExtendCrc32c(header.data_crc, data + done, piece);
    status = WriteAll(file.get(), data + done, piece, header.data_offset + done, path);
    PENSTOCK_FAULT_POINT("node.spill.writing");
  }
  if (status.ok() && info.has_crc32c() && info.crc32c() != header.data_crc) {
    status = absl::DataLossError(StrCat("'", info.name(), "': its bytes in memory are not what its CRC32C says"));
  }
  header.header_crc = HeaderCrc(header, text);
  if (status.ok()) status = WriteAll(file.get(), text.data(), text.size(), sizeof(header), path);
  if (status.ok()) status = WriteAll(file.get(), reinterpret_cast<const char*>(&header), sizeof(header), 0, path);
  if (status.ok() && fdatasync(file.get()) != 0) status = DiskError(errno, StrCat("fdatasync ", path));
  PENSTOCK_FAULT_POINT("node.spill.written");
  if (status.ok() && renameat(folder_.get(), unfinished.c_str(), folder_.get(), FileName(number, kWhole).c_str()) != 0) {
    status = DiskError(errno, StrCat("rename ", path));
  }
  PENSTOCK_FAULT_POINT("node.spill.renamed");
  if (!status.ok()) {
    unlinkat(folder_.get(), unfinished.c_str(), 0);
    return status;
  }
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  used_bytes_ += header.data_offset + info.nbytes();
  return absl::OkStatus();
}

absl::Status SpillDir::Read(uint64_t number, const v1::TensorInfo& info, char* to) const {
  const std::string path = PathOf(number);
  const UniqueFd file(openat(folder_.get(), FileName(number, kWhole).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file && errno == ENOENT) return absl::DataLossError(StrCat(path, ": it is not there"));
  if (!file) return DiskError(errno, StrCat("open ", path));
  uint64_t data_offset = 0;
  uint32_t data_crc = 0;
  const absl::StatusOr<File> header = ReadHeader(number, file, &data_offset, &data_crc);
  if (!header.ok()) return header.status();
  if (header->info.name() != info.name() || header->info.nbytes() != info.nbytes() || header->info.version().number() != info.version().number()) {
    return absl::DataLossError(StrCat(path, ": it is the file of another tensor"));
  }
  uint32_t crc = 0;
  for (uint64_t done = 0; done < info.nbytes(); done += kPiece) {
    const uint64_t piece = std::min(kPiece, info.nbytes() - done);
    if (absl::Status s = ReadAll(file.get(), to + done, piece, data_offset + done, path); !s.ok()) return s;
    crc = ExtendCrc32c(crc, to + done, piece);
    PENSTOCK_FAULT_POINT("node.spill.reading");
  }
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  if (crc != data_crc) return absl::DataLossError(StrCat(path, ": its bytes are not what was written (CRC32C)"));
  return absl::OkStatus();
}

void SpillDir::Remove(uint64_t number) {
  const std::string name = FileName(number, kWhole);
  struct stat about {};
  if (fstatat(folder_.get(), name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0) return;
  if (unlinkat(folder_.get(), name.c_str(), 0) == 0) used_bytes_ -= static_cast<uint64_t>(about.st_size);
}

void SpillDir::SetAside(uint64_t number) {
  const std::string name = FileName(number, kWhole);
  struct stat about {};
  if (fstatat(folder_.get(), name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0) return;
  if (renameat(folder_.get(), name.c_str(), folder_.get(), FileName(number, kBad).c_str()) != 0) return;
  used_bytes_ -= static_cast<uint64_t>(about.st_size);
  ++set_aside_;
}

}  // namespace penstock::server
