#include "transport/ucx/ucp_memory.h"

namespace penstock::ucx {

absl::StatusOr<std::unique_ptr<UcpMemory>> UcpMemory::Register(std::shared_ptr<UcpContext> context, void* address, size_t bytes) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  params.address = address;
  params.length = bytes;
  ucp_mem_h handle = nullptr;
  if (ucs_status_t s = ucp_mem_map(context->handle(), &params, &handle); s != UCS_OK) return UcsError(s, "ucp_mem_map");
  std::unique_ptr<UcpMemory> memory(new UcpMemory(std::move(context), handle));
  void* key = nullptr;
  size_t size = 0;
  if (ucs_status_t s = ucp_rkey_pack(memory->context_->handle(), handle, &key, &size); s != UCS_OK) return UcsError(s, "ucp_rkey_pack");
  memory->key_.assign(static_cast<const char*>(key), size);
  ucp_rkey_buffer_release(key);
  return memory;
}

}  // namespace penstock::ucx
