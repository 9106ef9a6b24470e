#include "client/cli/import_job.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "client/cli/returning.h"
#include "client/files/file_identity.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr uint64_t kBatchBytes = uint64_t{1} << 20;
constexpr size_t kBatchTensors = 256;

struct Batch {
  size_t begin;
  size_t end;
};

// Neighbours in the file stay together, so that it is read from front to back.
std::vector<Batch> PlanBatches(const ImportSource& source) {
  std::vector<Batch> batches;
  uint64_t bytes = 0;
  for (size_t i = 0; i < source.size(); ++i) {
    const uint64_t size = source.nbytes(i);
    const bool joins = !batches.empty() && bytes + size <= kBatchBytes &&
                       batches.back().end - batches.back().begin < kBatchTensors &&
                       source.identity(i) == source.identity(batches.back().begin);
    if (!joins) {
      batches.push_back({i, i});
      bytes = 0;
    }
    batches.back().end = i + 1;
    bytes += size;
  }
  return batches;
}

absl::Status Named(const absl::Status& status, const std::string& name) {
  return absl::Status(status.code(), StrCat("import '", name, "': ", status.message()));
}

class Import {
 public:
  Import(Client& client, const ImportJob& job)
      : client_(client), job_(job), batches_(PlanBatches(*job.source)) {}

  absl::StatusOr<ImportTotals> Run() {
    std::vector<std::thread> threads;
    const size_t wanted = std::min<size_t>(static_cast<size_t>(job_.jobs), batches_.size());
    for (size_t i = 1; i < wanted; ++i) threads.emplace_back([this] { Work(); });
    Work();
    for (std::thread& thread : threads) thread.join();
    if (!error_.ok()) return error_;
    return ImportTotals{tensors_.load(), bytes_.load()};
  }

 private:
  void Work() {
    while (!failed_.load(std::memory_order_relaxed)) {
      const size_t next = next_.fetch_add(1, std::memory_order_relaxed);
      if (next >= batches_.size()) return;
      if (absl::Status status = PutBatch(batches_[next]); !status.ok()) Fail(status);
    }
  }

  void Fail(const absl::Status& status) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (error_.ok()) error_ = status;
    failed_ = true;
  }

  absl::Status PutBatch(const Batch& batch) {
    std::vector<LoadedTensor> loaded;
    std::vector<std::string> names;
    std::vector<PutRequest> requests;
    for (size_t i = batch.begin; i < batch.end; ++i) {
      names.push_back(job_.prefix + job_.source->name(i));
      absl::StatusOr<LoadedTensor> tensor = job_.source->Load(i);
      if (!tensor.ok()) return Named(tensor.status(), job_.source->name(i));
      loaded.push_back(*std::move(tensor));
    }
    for (size_t i = 0; i < loaded.size(); ++i) {
      const FileTensor& tensor = loaded[i].tensor;
      requests.push_back({names[i], {tensor.data.data(), tensor.dtype, tensor.shape, {}}});
    }
    PutOptions options = job_.options;
    if (std::string identity = job_.source->identity(batch.begin); !identity.empty()) {
      options.metadata[std::string(kFileIdentityKey)] = std::move(identity);
    }
    size_t first = 0;
    if (batch.begin == 0 && !job_.source->metadata().empty()) {
      CLI_RETURN_IF_ERROR(PutFirst(requests[0], options));
      first = 1;
    }
    const auto rest = absl::MakeConstSpan(requests).subspan(first);
    if (rest.empty()) return absl::OkStatus();
    const std::vector<absl::StatusOr<TensorInfo>> results = client_.PutMany(rest, options);
    for (size_t i = 0; i < results.size(); ++i) {
      if (!results[i].ok()) return Named(results[i].status(), std::string(rest[i].name));
      Count(results[i]->nbytes);
    }
    return absl::OkStatus();
  }

  // The first tensor carries the file's own metadata, so that an export can give it back.
  absl::Status PutFirst(const PutRequest& request, PutOptions options) {
    for (const auto& [key, value] : job_.source->metadata()) {
      options.metadata[StrCat(kFileMetadataPrefix, key)] = value;
    }
    const absl::StatusOr<TensorInfo> info = client_.Put(request.name, request.tensor, options);
    if (!info.ok()) return Named(info.status(), std::string(request.name));
    Count(info->nbytes);
    return absl::OkStatus();
  }

  void Count(uint64_t bytes) {
    tensors_.fetch_add(1, std::memory_order_relaxed);
    bytes_.fetch_add(bytes, std::memory_order_relaxed);
    if (job_.advanced) job_.advanced(bytes);
  }

  Client& client_;
  const ImportJob& job_;
  const std::vector<Batch> batches_;
  std::atomic<size_t> next_{0};
  std::atomic<bool> failed_{false};
  std::atomic<uint64_t> tensors_{0};
  std::atomic<uint64_t> bytes_{0};
  std::mutex mutex_;
  absl::Status error_;  // guarded by mutex_; the first
};

}  // namespace

absl::StatusOr<ImportTotals> RunImport(Client& client, const ImportJob& job) {
  return Import(client, job).Run();
}

}  // namespace penstock::cli
