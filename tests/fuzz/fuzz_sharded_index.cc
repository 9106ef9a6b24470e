// Any text as the index of a sharded checkpoint: refused, or paths that stay inside the directory.
#include <string_view>

#include "client/files/sharded_index.h"
#include "tests/fuzz/fuzz_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace penstock;
  const auto map = ParseShardedIndex({reinterpret_cast<const char*>(data), size});
  if (!map.ok()) return 0;
  for (const auto& [tensor, path] : *map) {
    FUZZ_CHECK(!path.empty() && path.front() != '/' && path.find('\0') == std::string::npos);
    FUZZ_CHECK(("/" + path + "/").find("/../") == std::string::npos);
  }
  return 0;
}
