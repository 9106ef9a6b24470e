#include "transport/memory_limit.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

std::optional<uint64_t> ParseNumber(const std::string& text) {
  uint64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr == text.data()) return std::nullopt;
  return value;
}

std::optional<uint64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word)) return std::nullopt;
  return ParseNumber(word);  // "max" is no number: no limit
}

// The number behind `key` in a file of "key number" or "key: number kB" lines.
std::optional<uint64_t> ReadKey(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string name, number, unit;
    if (!(words >> name >> number) || name != key) continue;
    const auto value = ParseNumber(number);
    if (!value) return std::nullopt;
    return words >> unit && unit == "kB" ? *value * 1024 : *value;
  }
  return std::nullopt;
}

// Where a hierarchy is mounted and which of its directories the mount shows (a container's own).
struct Hierarchy {
  bool v2 = false;
  std::string mount_point, mount_root;
};

bool HasWord(const std::string& list, const std::string& word) {
  std::istringstream words(list);
  for (std::string item; std::getline(words, item, ',');) {
    if (item == word) return true;
  }
  return false;
}

// mountinfo: "31 23 0:28 ROOT MOUNT_POINT OPTIONS [TAGS...] - TYPE SOURCE SUPER_OPTIONS"
std::vector<Hierarchy> FindHierarchies(const std::string& root) {
  std::vector<Hierarchy> found;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string id, parent, device, mount_root, mount_point, word, type, source, super;
    words >> id >> parent >> device >> mount_root >> mount_point;
    while (words >> word && word != "-") {
    }
    if (!(words >> type >> source >> super)) continue;
    if (type == "cgroup2") found.push_back({true, mount_point, mount_root});
    if (type == "cgroup" && HasWord(super, "memory")) {
      found.push_back({false, mount_point, mount_root});
    }
  }
  return found;
}

// This process's directory in the hierarchy. /proc/self/cgroup: "4:memory:/a/b" or "0::/a/b".
std::string CgroupPath(const std::string& root, bool v2) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    if (first == std::string::npos) continue;
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (v2 ? line.compare(0, first, "0") == 0 && controllers.empty()
           : HasWord(controllers, "memory")) {
      return line.substr(second + 1);
    }
  }
  return "/";
}

// The path below the mount point. A mount may show only a part of the hierarchy ("/docker/abc"),
// and a path outside of it ("/../x" in a cgroup namespace) means: the top of what is shown.
std::string BelowMount(const std::string& path, const std::string& mount_root) {
  std::string below = path;
  if (mount_root != "/") {
    if (path.compare(0, mount_root.size(), mount_root) != 0) return "";
    below = path.substr(mount_root.size());
    if (!below.empty() && below[0] != '/') return "";
  }
  if (below.find("..") != std::string::npos) return "";
  while (!below.empty() && below.back() == '/') below.pop_back();
  return below;
}

// Takes one cgroup's limit into account. File cache on the inactive list is given back under
// pressure, so it is not what is used up.
void ApplyLevel(const std::string& directory, const std::string& shown, bool v2,
                MemoryLimit* result) {
  const auto limit = ReadNumber(directory + (v2 ? "/memory.max" : "/memory.limit_in_bytes"));
  const auto charged = ReadNumber(directory + (v2 ? "/memory.current" : "/memory.usage_in_bytes"));
  if (!limit || !charged || *limit >= result->total) return;  // v1 writes "none" as a huge number
  const uint64_t cache =
      ReadKey(directory + "/memory.stat", v2 ? "inactive_file" : "total_inactive_file").value_or(0);
  const uint64_t usage = *charged - std::min(cache, *charged);
  const uint64_t left = *limit - std::min(usage, *limit);
  result->available = std::min(result->available, left);
  if (*limit < result->limit) {
    result->limit = *limit;
    result->usage = usage;
    result->source = shown;
  }
}

}  // namespace

absl::StatusOr<MemoryLimit> ReadMemoryLimit(const std::string& root) {
  const std::string meminfo = root + "/proc/meminfo";
  const auto total = ReadKey(meminfo, "MemTotal:");
  const auto available = ReadKey(meminfo, "MemAvailable:");
  if (!total || !available) {
    return absl::UnavailableError(
        absl::StrCat("read the host's memory: no MemTotal and MemAvailable in ", meminfo));
  }
  MemoryLimit result;
  result.total = result.limit = *total;
  result.available = *available;
  result.usage = *total - std::min(*available, *total);
  result.source = "host";
  for (const Hierarchy& hierarchy : FindHierarchies(root)) {
    std::string below = BelowMount(CgroupPath(root, hierarchy.v2), hierarchy.mount_root);
    for (;;) {
      const std::string shown = hierarchy.mount_point + below;
      ApplyLevel(root + shown, shown, hierarchy.v2, &result);
      if (below.empty()) break;
      below.resize(below.rfind('/'));
    }
  }
  return result;
}

}  // namespace penstock
