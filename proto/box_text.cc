// ParseBox: index text to a box.
#include <penstock/box.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include "proto/strcat.h"

namespace penstock {
namespace {

std::string_view Trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  for (;;) {
    const size_t at = text.find(separator);
    pieces.push_back(Trim(text.substr(0, at)));
    if (at == std::string_view::npos) return pieces;
    text.remove_prefix(at + 1);
  }
}

absl::Status BadIndex(std::string_view item, std::string_view why) {
  return absl::InvalidArgumentError(StrCat("box: \"", item.substr(0, 64), "\" ", why));
}

absl::StatusOr<int64_t> ParseInteger(std::string_view digits, std::string_view item) {
  if (digits.size() > 1 && digits.front() == '+' && digits[1] != '-') digits.remove_prefix(1);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    return BadIndex(item, "is not an index; allowed: 3, -1, 0:10, :5, 2:, :, ...");
  }
  return value;
}

// A slice's bound: counted from the end if negative, then cut to [0, size].
absl::StatusOr<int64_t> ParseBound(std::string_view digits, std::string_view item, int64_t missing,
                                   int64_t size) {
  if (digits.empty()) return missing;
  absl::StatusOr<int64_t> value = ParseInteger(digits, item);
  if (!value.ok()) return value;
  if (*value < 0) *value += size;
  return std::min(std::max<int64_t>(*value, 0), size);
}

absl::Status ReadItem(std::string_view item, int dim, const Shape& shape, BoxSelection* selection) {
  const int64_t size = shape.dim(dim);
  const std::vector<std::string_view> parts = Split(item, ':');
  if (parts.size() == 1) {
    absl::StatusOr<int64_t> index = ParseInteger(item, item);
    if (!index.ok()) return index.status();
    if (*index < -size || *index >= size) {
      return BadIndex(item, StrCat("is out of range for dimension ", dim, " of size ", size));
    }
    selection->box.offset[dim] = *index < 0 ? *index + size : *index;
    selection->box.extent[dim] = 1;
    selection->dropped |= 1u << dim;
    return absl::OkStatus();
  }
  if (parts.size() > 3) return BadIndex(item, "has too many colons; allowed: start:stop");
  if (parts.size() == 3 && !parts[2].empty() && parts[2] != "1") {
    return BadIndex(item, "has a step; a box is read with step 1 only");
  }
  const absl::StatusOr<int64_t> start = ParseBound(parts[0], item, 0, size);
  if (!start.ok()) return start.status();
  const absl::StatusOr<int64_t> stop = ParseBound(parts[1], item, size, size);
  if (!stop.ok()) return stop.status();
  selection->box.offset[dim] = *start;
  selection->box.extent[dim] = std::max<int64_t>(*stop - *start, 0);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BoxSelection> ParseBox(std::string_view text, const Shape& shape) {
  BoxSelection selection{.box = Box::Whole(shape)};
  if (Trim(text).empty()) return selection;
  std::vector<std::string_view> items = Split(text, ',');
  if (items.size() > 1 && items.back().empty()) items.pop_back();  // "3," is a tuple of one
  const auto dots = std::count(items.begin(), items.end(), "...");
  if (dots > 1) return BadIndex(text, "has more than one \"...\"");
  const size_t indexed = items.size() - static_cast<size_t>(dots);
  if (indexed > static_cast<size_t>(shape.rank())) {
    return BadIndex(text, StrCat("has ", indexed, " indices for a tensor of rank ", shape.rank()));
  }
  int dim = 0;
  for (const std::string_view item : items) {
    if (item == "...") {
      dim += shape.rank() - static_cast<int>(indexed);
      continue;
    }
    if (absl::Status status = ReadItem(item, dim++, shape, &selection); !status.ok()) return status;
  }
  return selection;
}

}  // namespace penstock
