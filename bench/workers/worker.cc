#include "bench/workers/worker.h"

#include <cmath>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

namespace penstock::bench {

int Worker::Serve() {
  std::string name;
  while (std::getline(std::cin, name)) {
    nlohmann::json answer;
    if (auto it = measurements_.find(name); it == measurements_.end()) {
      answer["error"] = "this worker measures no '" + name + "'";
    } else if (absl::StatusOr<double> value = it->second(); !value.ok()) {
      answer["error"] = value.status().ToString();
    } else {
      answer["value"] = *value;
    }
    const std::string line = answer.dump() + "\n";
    if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size()) return 1;
    std::fflush(stdout);
  }
  return 0;
}

std::string FlagValue(int argc, char** argv, const std::string& name) {
  const std::string prefix = "--" + name + "=";
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind(prefix, 0) == 0) return word.substr(prefix.size());
  }
  return "";
}

}  // namespace penstock::bench
