// Maps every tensor under a prefix and compares each byte with a safetensors file.
//
//   quickstart_reader PREFIX FILE [--hold]
//
// Prints one line of JSON: reader, tensors, bytes, mismatched_tensors, first_get_ns, get_ns. With
// --hold it keeps all views until its standard input ends, so that the memory of several readers
// can be measured while they all live.
//
// It uses the public SDK (<penstock/client.h>) alone, and reads the file with code of its own, so
// that an error in the importer cannot hide here. reader.py is the same in Python.
#include <fcntl.h>
#include <penstock/client.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr int kRounds = 20;

struct Mapped {
  const char* data = nullptr;
  size_t size = 0;
};

std::optional<Mapped> MapFile(const char* path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (fd < 0 || fstat(fd, &status) != 0) return std::nullopt;
  const auto size = static_cast<size_t>(status.st_size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (data == MAP_FAILED) return std::nullopt;
  return Mapped{static_cast<const char*>(data), size};
}

struct Entry {
  std::string name;  // in the store
  std::string_view bytes;
};

// Format: 8 bytes with the length of a JSON header, the header, the tensors' bytes.
std::vector<Entry> ReadEntries(const Mapped& file, const std::string& prefix) {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data, sizeof(header_bytes));
  const std::string_view header(file.data + 8, header_bytes);
  const char* data = file.data + 8 + header_bytes;
  std::vector<Entry> entries;
  const auto json = nlohmann::json::parse(header);
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    const auto begin = entry["data_offsets"][0].get<uint64_t>();
    const auto end = entry["data_offsets"][1].get<uint64_t>();
    entries.push_back({prefix + "/" + name, std::string_view(data + begin, end - begin)});
  }
  return entries;
}

int64_t NowNs() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int64_t Median(std::vector<int64_t> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

int Fail(const std::string& message) {
  std::fprintf(stderr, "quickstart_reader: %s\n", message.c_str());
  return 1;
}

// A get by name, without what happens to the view later.
int64_t MedianGetNs(penstock::Client& client, const std::vector<Entry>& entries) {
  std::vector<int64_t> times;
  for (int round = 0; round < kRounds; ++round) {
    for (const Entry& entry : entries) {
      const int64_t begin = NowNs();
      const auto view = client.Get(entry.name);
      times.push_back(NowNs() - begin);
      if (!view.ok()) return -1;
    }
  }
  return Median(std::move(times));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return Fail("usage: quickstart_reader PREFIX FILE [--hold]");
  const bool hold = argc > 3 && std::strcmp(argv[3], "--hold") == 0;
  const std::optional<Mapped> file = MapFile(argv[2]);
  if (!file.has_value() || file->size < 8) return Fail(std::string("cannot read ") + argv[2]);
  const std::vector<Entry> entries = ReadEntries(*file, argv[1]);

  const auto client = penstock::Client::Connect();
  if (!client.ok()) return Fail(std::string(client.status().message()));
  std::vector<penstock::TensorView> views;
  uint64_t bytes = 0;
  int mismatched = 0;
  int64_t first_get_ns = 0;
  for (const Entry& entry : entries) {
    const int64_t begin = NowNs();
    auto view = (*client)->Get(entry.name);
    if (views.empty()) first_get_ns = NowNs() - begin;
    if (!view.ok()) return Fail(std::string(view.status().message()));
    const bool equal = view->nbytes() == entry.bytes.size() &&
                       (entry.bytes.empty() ||
                        std::memcmp(view->data(), entry.bytes.data(), entry.bytes.size()) == 0);
    mismatched += equal ? 0 : 1;
    bytes += view->nbytes();
    views.push_back(*std::move(view));
  }
  const nlohmann::ordered_json told = {{"reader", "C++"},
                                       {"tensors", views.size()},
                                       {"bytes", bytes},
                                       {"mismatched_tensors", mismatched},
                                       {"first_get_ns", first_get_ns},
                                       {"get_ns", MedianGetNs(**client, entries)}};
  std::printf("%s\n", told.dump().c_str());
  std::fflush(stdout);
  while (hold && std::getchar() != EOF) {
  }
  return mismatched == 0 ? 0 : 1;
}
