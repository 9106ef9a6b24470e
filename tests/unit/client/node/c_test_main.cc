#include <cstdio>

#include "tests/unit/client/node/node_process.h"

extern "C" int run_c_test(const char* address);

int main() {
  const penstock::testing::NodeProcess node;
  const int failed = run_c_test(node.dir().c_str());
  std::printf("%s: %d checks failed\n", failed == 0 ? "PASSED" : "FAILED", failed);
  return failed == 0 ? 0 : 1;
}
