#include "client/files/npy_header.h"

#include <charconv>
#include <optional>
#include <vector>

#include "proto/strcat.h"

namespace penstock {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxHeaderBytes = 64 * 1024;

absl::Status Bad(std::string_view why) { return absl::InvalidArgumentError(StrCat("npy: ", why)); }

// A cursor over the literal. Spaces may stand between tokens, as in Python.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}

  bool AtEnd() {
    SkipSpace();
    return at_ == text_.size();
  }
  bool Take(char c) {
    SkipSpace();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool TakeWord(std::string_view word) {
    SkipSpace();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  // 'text' or "text"; escapes do not occur in what we know.
  std::optional<std::string_view> TakeText() {
    SkipSpace();
    if (at_ == text_.size() || (text_[at_] != '\'' && text_[at_] != '"')) return std::nullopt;
    const size_t end = text_.find(text_[at_], at_ + 1);
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view inside = text_.substr(at_ + 1, end - at_ - 1);
    if (inside.find_first_of("\\\n") != std::string_view::npos) return std::nullopt;
    at_ = end + 1;
    return inside;
  }
  // Digits; Python 2 wrote 3L.
  std::optional<int64_t> TakeNumber() {
    SkipSpace();
    int64_t value = 0;
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error != std::errc() || value < 0 || *begin == '-') return std::nullopt;
    at_ += static_cast<size_t>(end - begin);
    if (at_ < text_.size() && text_[at_] == 'L') ++at_;
    return value;
  }
  size_t position() const { return at_; }

 private:
  void SkipSpace() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) {
      ++at_;
    }
  }

  std::string_view text_;
  size_t at_ = 0;
};

absl::StatusOr<DType> TakeDescr(Cursor& cursor) {
  const std::optional<std::string_view> text = cursor.TakeText();
  if (!text.has_value()) {
    return Bad("descr: not a simple type; structured dtypes have no place in a tensor store");
  }
  if (text->find('V') != std::string_view::npos) {
    return Bad(StrCat("descr: '", *text,
                      "' is raw bytes; .npy does not keep bf16, f8 and the like: "
                      "use safetensors"));
  }
  // Only type strings: '<f4' and the like, never names.
  if (text->size() < 3 || std::string_view("<>|=").find((*text)[0]) == std::string_view::npos) {
    return Bad(StrCat("descr: '", text->substr(0, 64), "' is not a type string such as '<f4'"));
  }
  const absl::StatusOr<DType> dtype = ParseDType(*text);
  if (!dtype.ok()) return Bad(StrCat("descr: ", dtype.status().message()));
  return dtype;
}

absl::StatusOr<Shape> TakeShape(Cursor& cursor) {
  if (!cursor.Take('(')) return Bad("shape: not a tuple");
  std::vector<int64_t> dims;
  bool comma = false;
  while (!cursor.Take(')')) {
    if (!dims.empty() && !comma) return Bad("shape: dimensions without a comma between them");
    const std::optional<int64_t> dim = cursor.TakeNumber();
    if (!dim.has_value()) return Bad("shape: a dimension is not a number from 0 to 2^63 - 1");
    if (dims.size() == static_cast<size_t>(kMaxRank)) {
      return Bad(StrCat("shape: rank is above the limit of ", kMaxRank));
    }
    dims.push_back(*dim);
    comma = cursor.Take(',');
  }
  if (dims.size() == 1 && !comma) return Bad("shape: (n) is a number, not a tuple; (n,) is one");
  absl::StatusOr<Shape> shape = Shape::Create(dims);
  if (!shape.ok()) return Bad(StrCat(shape.status().message()));
  return shape;
}

absl::Status TakeField(std::string_view key, Cursor& cursor, NpyHeader* header) {
  if (key == "descr") {
    const absl::StatusOr<DType> dtype = TakeDescr(cursor);
    if (!dtype.ok()) return dtype.status();
    header->dtype = *dtype;
    return absl::OkStatus();
  }
  if (key == "shape") {
    const absl::StatusOr<Shape> shape = TakeShape(cursor);
    if (!shape.ok()) return shape.status();
    header->shape = *shape;
    return absl::OkStatus();
  }
  header->fortran_order = cursor.TakeWord("True");
  if (header->fortran_order || cursor.TakeWord("False")) return absl::OkStatus();
  return Bad("fortran_order: neither True nor False");
}

}  // namespace

absl::StatusOr<NpyHeader> ParseNpyDict(std::string_view text) {
  constexpr std::string_view kFields[] = {"descr", "fortran_order", "shape"};
  Cursor cursor(text);
  NpyHeader header;
  bool seen[std::size(kFields)] = {};
  if (!cursor.Take('{')) return Bad("the header is not a dict");
  bool comma = true;
  while (!cursor.Take('}')) {
    const std::optional<std::string_view> key = comma ? cursor.TakeText() : std::nullopt;
    if (!key.has_value() || !cursor.Take(':')) {
      return Bad(StrCat("the header is not a dict literal at its byte ", cursor.position()));
    }
    size_t field = 0;
    while (field < std::size(kFields) && kFields[field] != *key) ++field;
    if (field == std::size(kFields)) {
      return Bad(StrCat("field '", key->substr(0, 64),
                        "' is unknown; allowed: descr, fortran_order, shape"));
    }
    if (seen[field]) return Bad(StrCat("field '", *key, "' comes twice"));
    seen[field] = true;
    if (absl::Status status = TakeField(*key, cursor, &header); !status.ok()) return status;
    comma = cursor.Take(',');
  }
  for (size_t field = 0; field < std::size(kFields); ++field) {
    if (!seen[field]) return Bad(StrCat("field '", kFields[field], "' is missing"));
  }
  if (!cursor.AtEnd()) return Bad("text follows the header's dict");
  return header;
}

absl::StatusOr<NpyHeader> ParseNpyHeader(absl::Span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.substr(0, kMagic.size()) != kMagic || text.size() < 10) {
    return Bad("the file does not begin with \\x93NUMPY, a version and a header length");
  }
  const int major = static_cast<unsigned char>(text[6]);
  const int minor = static_cast<unsigned char>(text[7]);
  if (major < 1 || major > 3 || minor != 0) {
    return Bad(StrCat("version ", major, ".", minor, " is unknown; allowed: 1.0, 2.0, 3.0"));
  }
  const size_t length_bytes = major == 1 ? 2 : 4;
  const size_t dict_offset = 8 + length_bytes;
  if (text.size() < dict_offset) return Bad("the file ends in its header");
  size_t dict_bytes = 0;
  for (size_t i = 0; i < length_bytes; ++i) {
    dict_bytes |= size_t{static_cast<unsigned char>(text[8 + i])} << (8 * i);
  }
  if (dict_bytes > kMaxHeaderBytes) {
    return Bad(StrCat("header length ", dict_bytes, " is above the limit of ", kMaxHeaderBytes));
  }
  if (dict_bytes > text.size() - dict_offset) return Bad("the file ends in its header");
  absl::StatusOr<NpyHeader> header = ParseNpyDict(text.substr(dict_offset, dict_bytes));
  if (!header.ok()) return header;
  const absl::StatusOr<uint64_t> data_bytes = ByteSize(header->dtype, header->shape);
  if (!data_bytes.ok()) return Bad(StrCat(data_bytes.status().message()));
  header->header_bytes = dict_offset + dict_bytes;
  header->data_bytes = *data_bytes;
  return header;
}

absl::StatusOr<std::string> FormatNpyHeader(DType dtype, const Shape& shape) {
  const std::string_view typestr = TraitsOf(dtype).typestr;
  if (typestr.empty() || typestr[1] == 'V') {
    return Bad(StrCat("dtype ", DTypeName(dtype), " has no name in .npy: use safetensors"));
  }
  std::string dict = StrCat("{'descr': '", typestr,
                            "', 'fortran_order': False, 'shape': ", shape.ToString(), ", }");
  // Magic, version, length, dict, spaces and the final newline make a multiple of 64.
  constexpr size_t kBefore = 10;
  const size_t total = (kBefore + dict.size() + 1 + 63) / 64 * 64;
  dict.resize(total - kBefore - 1, ' ');
  dict.push_back('\n');
  std::string out(kMagic);
  out.append({'\x01', '\x00', static_cast<char>(dict.size()), static_cast<char>(dict.size() >> 8)});
  return out + dict;
}

}  // namespace penstock
