// Puts every tensor of a source into the store: small ones many at a time, over several threads.
//
// The one pass: bytes go from the mapped file into the store's memory; nothing is copied between.
//
// Threading:  RunImport starts its own threads and waits for them.
// Ownership:  borrows everything for the call.
// Errors:     the first one, with the tensor's name; what was stored before it stays.
// Limits:     a batch is at most 1 MiB or 256 tensors.
#ifndef PENSTOCK_CLIENT_CLI_IMPORT_JOB_H_
#define PENSTOCK_CLIENT_CLI_IMPORT_JOB_H_

#include <penstock/client.h>

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/import_source.h"

namespace penstock::cli {

// The metadata of a safetensors file is kept with the first tensor of the file, each key under
// this.
inline constexpr std::string_view kFileMetadataPrefix = "safetensors.";

struct ImportJob {
  const ImportSource* source = nullptr;
  std::string prefix;  // before each name; empty or ending in '/'
  PutOptions options;
  int jobs = 1;
  std::function<void(uint64_t bytes)> advanced;  // called from any thread
};

struct ImportTotals {
  uint64_t tensors = 0;
  uint64_t bytes = 0;
};

absl::StatusOr<ImportTotals> RunImport(Client& client, const ImportJob& job);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_IMPORT_JOB_H_
