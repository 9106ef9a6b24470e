// UcpMemory: memory that peers may reach, and the key that lets them.
//
// UCX knows no key for reading only: who has it can write as well. The memory must be mapped writable.
//
// Threading:  any thread
// Ownership:  keeps its context; the memory must stay mapped while it lives
// Errors:     RESOURCE_EXHAUSTED (RLIMIT_MEMLOCK), INTERNAL what UCX says
// Limits:     registering costs about 5 ms a GiB, and pins the pages
#ifndef PENSTOCK_TRANSPORT_UCX_UCP_MEMORY_H_
#define PENSTOCK_TRANSPORT_UCX_UCP_MEMORY_H_

#include <memory>
#include <string>

#include "transport/ucx/ucp_context.h"

namespace penstock::ucx {

class UcpMemory {
 public:
  static absl::StatusOr<std::unique_ptr<UcpMemory>> Register(std::shared_ptr<UcpContext> context, void* address, size_t bytes);
  ~UcpMemory() { ucp_mem_unmap(context_->handle(), handle_); }
  UcpMemory(const UcpMemory&) = delete;
  UcpMemory& operator=(const UcpMemory&) = delete;

  const std::string& key() const { return key_; }

 private:
  UcpMemory(std::shared_ptr<UcpContext> context, ucp_mem_h handle) : context_(std::move(context)), handle_(handle) {}
  const std::shared_ptr<UcpContext> context_;
  const ucp_mem_h handle_;
  std::string key_;  // packed
};

}  // namespace penstock::ucx

#endif  // PENSTOCK_TRANSPORT_UCX_UCP_MEMORY_H_
