#include "client/files/sharded_index.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

#include "proto/names.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

constexpr size_t kMaxIndexBytes = 100'000'000;

// Keeps weight_map, skips the rest. `depth_` counts objects and arrays.
class IndexHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  WeightMap weight_map;
  bool has_weight_map = false;
  std::string error;

  bool start_object(std::size_t) override {
    if (depth_ == 1 && field_ == "weight_map") {
      if (has_weight_map) return Fail("weight_map comes twice");
      has_weight_map = in_map_ = true;
    } else if (in_map_) {
      return NotText();
    }
    ++depth_;
    return true;
  }
  bool end_object() override {
    if (--depth_ == 1) in_map_ = false;
    return true;
  }
  bool start_array(std::size_t) override {
    if (!SkipValue()) return false;
    if (depth_ == 0) return Fail("not an object");
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(string_t& key) override {
    if (depth_ == 1 || in_map_) field_ = key;
    if (in_map_ && weight_map.count(key) != 0) {
      return Fail(StrCat("weight_map: tensor \"", key, "\" comes twice"));
    }
    return true;
  }
  bool string(string_t& value) override {
    if (!in_map_) return SkipValue();
    // A path that stays inside: relative, and no part that is empty, "." or "..".
    if (const absl::Status status = ValidateName(value); !status.ok()) {
      return Fail(StrCat("weight_map: tensor \"", field_, "\": file ", status.message(),
                         "; it must be a path inside the directory"));
    }
    weight_map.emplace(field_, std::move(value));
    return true;
  }
  bool null() override { return SkipValue(); }
  bool boolean(bool) override { return SkipValue(); }
  bool number_integer(number_integer_t) override { return SkipValue(); }
  bool number_unsigned(number_unsigned_t) override { return SkipValue(); }
  bool number_float(number_float_t, const string_t&) override { return SkipValue(); }
  bool binary(binary_t&) override { return SkipValue(); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(StrCat("not JSON at its byte ", position));
  }

 private:
  bool Fail(std::string message) {
    error = std::move(message);
    return false;
  }
  bool NotText() { return Fail(StrCat("weight_map: tensor \"", field_, "\": not a file's name")); }
  // Any value outside the weight map; the map itself must be an object.
  bool SkipValue() {
    if (in_map_) return NotText();
    if (depth_ == 1 && field_ == "weight_map") return Fail("weight_map is not an object");
    return true;
  }

  int depth_ = 0;
  bool in_map_ = false;
  std::string field_;
};

}  // namespace

absl::StatusOr<WeightMap> ParseShardedIndex(std::string_view json) {
  const auto bad = [](std::string_view why) {
    return absl::InvalidArgumentError(StrCat("safetensors index: ", why));
  };
  if (json.size() > kMaxIndexBytes) {
    return bad(StrCat("has ", json.size(), " bytes; at most ", kMaxIndexBytes, " are read"));
  }
  // The parser takes a zero byte for the end of its input.
  if (json.find('\0') != std::string_view::npos) return bad("has a zero byte");
  IndexHandler handler;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &handler)) return bad(handler.error);
  if (!handler.has_weight_map) return bad("has no weight_map");
  return std::move(handler.weight_map);
}

}  // namespace penstock
