#include "client/files/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>
#include <utility>

#include "proto/names.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

constexpr std::string_view kMetadataKey = "__metadata__";

// An entry as the text has it, not yet checked.
struct RawEntry {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<int64_t>> shape;
  std::optional<std::vector<int64_t>> data_offsets;
};

std::string Where(std::string_view tensor) {
  return StrCat("safetensors: tensor \"", tensor, "\": ");
}

// Follows the parser's events. The format is three levels deep, so the place is told by `level_`
// and by whether the second level is metadata.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<RawEntry> entries;
  FileMetadata metadata;
  bool has_metadata = false;
  std::string error;  // set when an event returned false

  bool start_object(std::size_t) override {
    if (level_ == 0 || (level_ == 1 && !has_value_)) {
      ++level_;
      has_value_ = true;
      return true;
    }
    return Refuse("an object where a value is expected");
  }
  bool end_object() override {
    --level_;
    return true;
  }
  bool key(string_t& key) override {
    if (level_ == 1) {
      has_value_ = false;
      if (!names_.insert(key).second) return Fail(StrCat(Where(key), "comes twice"));
      in_metadata_ = key == kMetadataKey;
      if (in_metadata_) {
        has_metadata = true;
      } else {
        entries.push_back(RawEntry{.name = key});
      }
      return true;
    }
    field_ = key;
    if (in_metadata_ && metadata.count(key) != 0) {
      return Fail(StrCat("safetensors: ", kMetadataKey, ": key \"", key, "\" comes twice"));
    }
    return true;
  }
  bool string(string_t& value) override {
    if (level_ == 2 && in_metadata_) {
      metadata.emplace(field_, std::move(value));
      return true;
    }
    if (level_ == 2 && field_ == "dtype" && !entries.back().dtype.has_value()) {
      entries.back().dtype = std::move(value);
      return true;
    }
    return Refuse("text");
  }
  bool start_array(std::size_t) override {
    if (level_ != 2 || in_metadata_) return Refuse("an array");
    std::optional<std::vector<int64_t>>* list = nullptr;
    if (field_ == "shape") list = &entries.back().shape;
    if (field_ == "data_offsets") list = &entries.back().data_offsets;
    if (list == nullptr || list->has_value()) return Refuse("an array");
    list_ = &list->emplace();
    ++level_;
    return true;
  }
  bool end_array() override {
    --level_;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (level_ != 3) return Refuse("a number");
    if (value > INT64_MAX) return Refuse(StrCat("the number ", value));
    // Longer lists than any legal one need not be kept whole.
    if (list_->size() > static_cast<size_t>(kMaxRank)) return Refuse("a list above rank 16");
    list_->push_back(static_cast<int64_t>(value));
    return true;
  }
  bool number_integer(number_integer_t value) override {
    return Refuse(StrCat("the number ", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Refuse(StrCat("the number ", text.substr(0, 32)));
  }
  bool null() override { return Refuse("null"); }
  bool boolean(bool value) override { return Refuse(StrCat(value)); }
  bool binary(binary_t&) override { return Refuse("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(StrCat("safetensors: header is not JSON at its byte ", position));
  }

 private:
  bool Fail(std::string message) {
    error = std::move(message);
    return false;
  }
  // `what` stands where the format has something else.
  bool Refuse(std::string_view what) {
    if (level_ == 0) return Fail(StrCat("safetensors: header is ", what, ", not an object"));
    if (in_metadata_) {
      return Fail(
          StrCat("safetensors: ", kMetadataKey, ": ", what, " found; it maps text to text"));
    }
    const std::string_view name = entries.empty() ? "" : std::string_view(entries.back().name);
    if (level_ == 1) return Fail(StrCat(Where(name), what, " found; it must be an object"));
    return Fail(StrCat(Where(name), "field \"", field_.substr(0, 64), "\" has ", what,
                       " or comes twice; allowed: dtype (text), shape and data_offsets (lists of "
                       "numbers from 0 up)"));
  }

  int level_ = 0;          // 1: the header, 2: an entry or the metadata, 3: a list
  bool has_value_ = true;  // at level 1: the last key got its object
  bool in_metadata_ = false;
  std::string field_;
  std::vector<int64_t>* list_ = nullptr;
  std::unordered_set<std::string> names_;
};

absl::Status Invalid(std::string_view tensor, std::string_view why) {
  return absl::InvalidArgumentError(StrCat(Where(tensor), why));
}

// The shape here of a shape in the file: F4 counts values there and bytes of two values here.
absl::StatusOr<Shape> ShapeOf(const RawEntry& raw, DType dtype) {
  std::vector<int64_t> dims = *raw.shape;
  if (dtype == DType::kF4E2M1X2) {
    if (dims.empty() || dims.back() % 2 != 0) {
      return Invalid(raw.name,
                     StrCat("shape: (", Join(dims, ", "),
                            ") of F4 does not fill whole bytes: its last dimension must be even"));
    }
    dims.back() /= 2;
  }
  absl::StatusOr<Shape> shape = Shape::Create(dims);
  if (!shape.ok()) return Invalid(raw.name, StrCat(shape.status().message()));
  return shape;
}

absl::StatusOr<SafetensorsEntry> Check(RawEntry raw) {
  if (const absl::Status status = ValidateName(raw.name); !status.ok()) {
    return absl::InvalidArgumentError(StrCat("safetensors: ", status.message()));
  }
  if (!raw.dtype.has_value()) return Invalid(raw.name, "field \"dtype\" is missing");
  if (!raw.shape.has_value()) return Invalid(raw.name, "field \"shape\" is missing");
  if (!raw.data_offsets.has_value()) return Invalid(raw.name, "field \"data_offsets\" is missing");
  const absl::StatusOr<DType> dtype = DTypeFromSafetensors(*raw.dtype);
  if (!dtype.ok()) return Invalid(raw.name, StrCat(dtype.status().message()));
  const absl::StatusOr<Shape> shape = ShapeOf(raw, *dtype);
  if (!shape.ok()) return shape.status();
  const absl::StatusOr<uint64_t> bytes = ByteSize(*dtype, *shape);
  if (!bytes.ok()) return Invalid(raw.name, StrCat(bytes.status().message()));
  const std::vector<int64_t>& offsets = *raw.data_offsets;
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    return Invalid(raw.name,
                   StrCat("data_offsets: [", Join(offsets, ", "), "] is not a begin and an end"));
  }
  const auto begin = static_cast<uint64_t>(offsets[0]);
  const auto end = static_cast<uint64_t>(offsets[1]);
  if (end - begin != *bytes) {
    return Invalid(raw.name,
                   StrCat("data_offsets: [", begin, ", ", end, "] holds ", end - begin, " bytes; ",
                          shape->ToString(), " of ", DTypeName(*dtype), " needs ", *bytes));
  }
  return SafetensorsEntry{.spec = {.name = std::move(raw.name), .dtype = *dtype, .shape = *shape},
                          .begin = begin,
                          .end = end};
}

// Sorts by offset and proves that the buffer is covered exactly once.
absl::Status CheckCover(std::vector<SafetensorsEntry>* entries, uint64_t buffer_bytes) {
  std::sort(entries->begin(), entries->end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.spec.name) < std::tie(b.begin, b.end, b.spec.name);
  });
  uint64_t covered = 0;
  for (const SafetensorsEntry& entry : *entries) {
    if (entry.begin != covered) {
      return Invalid(
          entry.spec.name,
          StrCat("data_offsets: begins at ", entry.begin,
                 entry.begin < covered ? " and overlaps the tensor before it, which ends at "
                                       : " and leaves a hole after ",
                 covered));
    }
    covered = entry.end;
  }
  if (covered != buffer_bytes) {
    return absl::InvalidArgumentError(
        StrCat("safetensors: the tensors cover ", covered, " bytes, the file has ", buffer_bytes,
               " after its header", covered > buffer_bytes ? ": it is cut off" : ""));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json,
                                                         uint64_t buffer_bytes) {
  if (json.empty() || json.front() != '{') {
    return absl::InvalidArgumentError("safetensors: the header does not begin with '{'");
  }
  // The parser takes a zero byte for the end of its input.
  if (const size_t zero = json.find('\0'); zero != std::string_view::npos) {
    return absl::InvalidArgumentError(
        StrCat("safetensors: header is not JSON at its byte ", zero + 1));
  }
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &handler)) {
    return absl::InvalidArgumentError(handler.error);
  }
  SafetensorsHeader header;
  header.metadata = std::move(handler.metadata);
  header.has_metadata = handler.has_metadata;
  header.entries.reserve(handler.entries.size());
  for (RawEntry& raw : handler.entries) {
    absl::StatusOr<SafetensorsEntry> entry = Check(std::move(raw));
    if (!entry.ok()) return entry.status();
    header.entries.push_back(*std::move(entry));
  }
  if (absl::Status status = CheckCover(&header.entries, buffer_bytes); !status.ok()) return status;
  return header;
}

}  // namespace penstock
