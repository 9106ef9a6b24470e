#include "client/files/safetensors_writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string_view>
#include <utility>

#include "client/files/safetensors_header.h"
#include "proto/names.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

// Place of a dtype in the original's enumeration, which is ordered by alignment; -1 if it is not
// there.
int Rank(DType dtype) {
  constexpr DType kOrder[] = {
      DType::kBool,       DType::kF4E2M1X2, DType::kF6E2M3,   DType::kF6E3M2,    DType::kU8,
      DType::kI8,         DType::kF8E5M2,   DType::kF8E4M3FN, DType::kF8E8M0FNU, DType::kF8E4M3FNUZ,
      DType::kF8E5M2FNUZ, DType::kI16,      DType::kU16,      DType::kF16,       DType::kBF16,
      DType::kI32,        DType::kU32,      DType::kF32,      DType::kC64,       DType::kF64,
      DType::kI64,        DType::kU64};
  const DType* place = std::find(std::begin(kOrder), std::end(kOrder), dtype);
  return place == std::end(kOrder) ? -1 : static_cast<int>(place - std::begin(kOrder));
}

std::string Quoted(std::string_view text) { return nlohmann::json(text).dump(); }

absl::Status CheckSpec(const TensorSpec& spec) {
  if (absl::Status status = ValidateName(spec.name); !status.ok()) return status;
  if (spec.name == "__metadata__") {
    return absl::InvalidArgumentError("name: \"__metadata__\" has another meaning in safetensors");
  }
  if (Rank(spec.dtype) < 0) {
    return absl::InvalidArgumentError(StrCat("tensor \"", spec.name, "\": dtype ",
                                             DTypeName(spec.dtype),
                                             " cannot be stored in safetensors"));
  }
  return absl::OkStatus();
}

void AppendMetadata(const FileMetadata& metadata, std::string* out) {
  *out += "\"__metadata__\":{";
  bool first = true;
  for (const auto& [key, value] : metadata) {
    StrAppend(out, first ? "" : ",", Quoted(key), ":", Quoted(value));
    first = false;
  }
  *out += "}";
}

// Appends the tensor to the header's text.
absl::Status AppendEntry(const TensorSpec& spec, SafetensorsPlan* plan) {
  const absl::StatusOr<uint64_t> bytes = ByteSize(spec.dtype, spec.shape);
  if (!bytes.ok()) return bytes.status();
  std::vector<int64_t> dims(spec.shape.dims().begin(), spec.shape.dims().end());
  if (spec.dtype == DType::kF4E2M1X2) {
    if (dims.empty()) {
      return absl::InvalidArgumentError(
          StrCat("tensor \"", spec.name, "\": safetensors cannot store a f4_e2m1x2 of rank 0"));
    }
    dims.back() *= 2;
  }
  const uint64_t begin = plan->buffer_bytes;
  if (__builtin_add_overflow(begin, *bytes, &plan->buffer_bytes) ||
      plan->buffer_bytes > static_cast<uint64_t>(INT64_MAX) - kMaxSafetensorsHeaderBytes - 8) {
    return absl::InvalidArgumentError("safetensors: the tensors have more than 2^63 bytes");
  }
  StrAppend(&plan->head, plan->head.size() > 1 ? "," : "", Quoted(spec.name),
            ":{\"dtype\":\"", TraitsOf(spec.dtype).safetensors, "\",\"shape\":[", Join(dims, ","),
            "],\"data_offsets\":[", begin, ",", plan->buffer_bytes, "]}");
  return absl::OkStatus();
}

absl::Status CheckAll(absl::Span<const TensorSpec> specs, const FileMetadata* metadata) {
  std::vector<std::string_view> names;
  for (const TensorSpec& spec : specs) {
    if (absl::Status status = CheckSpec(spec); !status.ok()) return status;
    names.push_back(spec.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    return absl::InvalidArgumentError(StrCat("tensor \"", *twice, "\" comes twice"));
  }
  if (metadata == nullptr) return absl::OkStatus();
  for (const auto& [key, value] : *metadata) {
    if (!IsValidUtf8(key) || !IsValidUtf8(value)) {
      return absl::InvalidArgumentError("metadata: a key or value is not valid UTF-8");
    }
  }
  return absl::OkStatus();
}

std::vector<size_t> OrderOf(absl::Span<const TensorSpec> specs) {
  std::vector<size_t> order(specs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const int rank_a = Rank(specs[a].dtype);
    const int rank_b = Rank(specs[b].dtype);
    return rank_a != rank_b ? rank_a > rank_b : specs[a].name < specs[b].name;
  });
  return order;
}

std::string LengthBytes(uint64_t length) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
  return bytes;
}

}  // namespace

absl::StatusOr<SafetensorsPlan> PlanSafetensors(absl::Span<const TensorSpec> specs,
                                                const FileMetadata* metadata) {
  if (absl::Status status = CheckAll(specs, metadata); !status.ok()) return status;
  SafetensorsPlan plan;
  plan.order = OrderOf(specs);
  plan.head = "{";
  if (metadata != nullptr) AppendMetadata(*metadata, &plan.head);
  for (const size_t i : plan.order) {
    if (absl::Status status = AppendEntry(specs[i], &plan); !status.ok()) return status;
  }
  plan.head += "}";
  plan.head.resize((plan.head.size() + 7) / 8 * 8, ' ');
  if (plan.head.size() > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(StrCat("safetensors: the header has ", plan.head.size(),
                                             " bytes; at most ", kMaxSafetensorsHeaderBytes,
                                             " are allowed: fewer tensors or shorter names"));
  }
  plan.head.insert(0, LengthBytes(plan.head.size()));
  return plan;
}

SafetensorsWriter::SafetensorsWriter(AtomicFile file, std::vector<size_t> order,
                                     uint64_t total_bytes)
    : file_(std::move(file)), order_(std::move(order)), total_bytes_(total_bytes) {}

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(const std::string& path,
                                                            absl::Span<const TensorSpec> specs,
                                                            const FileMetadata& metadata) {
  absl::StatusOr<SafetensorsPlan> plan =
      PlanSafetensors(specs, metadata.empty() ? nullptr : &metadata);
  if (!plan.ok()) return plan.status();
  return Create(path, *std::move(plan));
}

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(const std::string& path,
                                                            SafetensorsPlan plan) {
  absl::StatusOr<AtomicFile> file = AtomicFile::Create(path);
  if (!file.ok()) return file.status();
  if (absl::Status status = file->Write(plan.head); !status.ok()) return status;
  const uint64_t total_bytes = plan.head.size() + plan.buffer_bytes;
  return SafetensorsWriter(*std::move(file), std::move(plan.order), total_bytes);
}

absl::Status SafetensorsWriter::Append(absl::Span<const std::byte> bytes) {
  if (bytes.size() > total_bytes_ - file_.size_bytes()) {
    return absl::InvalidArgumentError(StrCat("safetensors: ", bytes.size(),
                                             " more bytes appended; the tensors announced need ",
                                             total_bytes_ - file_.size_bytes()));
  }
  return file_.Write(bytes);
}

absl::Status SafetensorsWriter::Finish() {
  if (file_.size_bytes() != total_bytes_) {
    return absl::InvalidArgumentError(StrCat("safetensors: ", total_bytes_ - file_.size_bytes(),
                                             " bytes of the tensors announced are missing"));
  }
  return file_.Commit();
}

absl::Status WriteSafetensors(const std::string& path, absl::Span<const FileTensor> tensors,
                              const FileMetadata& metadata) {
  std::vector<TensorSpec> specs;
  for (const FileTensor& tensor : tensors) {
    const absl::StatusOr<uint64_t> bytes = ByteSize(tensor.dtype, tensor.shape);
    if (!bytes.ok()) return bytes.status();
    if (*bytes != tensor.data.size()) {
      return absl::InvalidArgumentError(StrCat("tensor \"", tensor.name, "\": data has ",
                                               tensor.data.size(), " bytes; its shape needs ",
                                               *bytes));
    }
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  absl::StatusOr<SafetensorsWriter> writer = SafetensorsWriter::Create(path, specs, metadata);
  if (!writer.ok()) return writer.status();
  for (const size_t i : writer->order()) {
    if (absl::Status status = writer->Append(tensors[i].data); !status.ok()) return status;
  }
  return writer->Finish();
}

}  // namespace penstock
