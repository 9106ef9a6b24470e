#include "bench/workers/names.h"

#include <algorithm>
#include <cstdio>
#include <vector>

namespace penstock::bench {

std::string NumberedName(uint64_t number) {
  char text[16];
  std::snprintf(text, sizeof text, "%08llu", static_cast<unsigned long long>(number % 100000000));
  return std::string(kNumberedPrefix) + text;
}

absl::Status PutNumberedNames(Client& client, uint64_t count) {
  constexpr uint64_t kBatch = 4000;
  const std::vector<char> bytes(kNumberedTensorBytes, 1);
  const Shape shape({static_cast<int64_t>(kNumberedTensorBytes)});
  std::vector<std::string> names;
  std::vector<PutRequest> requests;
  for (uint64_t first = 0; first < count; first += kBatch) {
    names.clear();
    requests.clear();
    for (uint64_t i = first; i < std::min(count, first + kBatch); ++i) {
      names.push_back(NumberedName(i));
    }
    for (const std::string& name : names) {
      requests.push_back({name, {bytes.data(), DType::kU8, shape, {}}});
    }
    for (const absl::StatusOr<TensorInfo>& result : client.PutMany(requests)) {
      if (!result.ok()) return result.status();
    }
  }
  return absl::OkStatus();
}

}  // namespace penstock::bench
