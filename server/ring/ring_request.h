// Reading requests out of a session's ring, whose every word a hostile client may change at any moment.
//
// Each value is read once into memory of the node's own and checked there; only the tensor's bytes are read in place
// (whatever they turn into is the client's own tensor).
//
// Threading:  the ring thread.
// Ownership:  a request keeps its own copy of what was asked; its block stays in the ring, for the answer.
// Errors:     InvalidArgument for a malformed request (answered to the client); FailedPrecondition when the block itself
//             cannot be trusted for an answer (the session is cut off).
// Limits:     a request is at most kMaxRequestBytes without tensor bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/layout/ring_layout.h"
#include "server/store/store.h"

namespace penstock::server {

inline constexpr uint32_t kMaxRequestBytes = uint32_t{2} << 20;

struct RingRequest {
  layout::RingOp op;
  uint64_t request_id = 0;
  std::string body;                // the request that followed the block's header
  char* block = nullptr;           // in the ring, for the answer
  uint32_t block_bytes = 0;
  uint32_t response_offset = 0;
  uint32_t response_capacity = 0;
};

// Copies the request at queue entry `unit` out of the ring.
absl::Status ReadRequest(char* ring, uint32_t unit, RingRequest* request);

// Begins to fetch the request at queue entry `unit` from the core that wrote it, while another one is being served.
void PrefetchRequest(const char* ring, uint32_t unit);

// Whether the request waits for an answer. At the head of the queue there may be one that an earlier node answered just
// before it died: doing it again would undo what came after it.
bool IsUnanswered(const RingRequest& request);

// The spec of a kPut or kReserve; its views point into request.body. `data`: of a kPut, in the ring.
absl::StatusOr<CreateSpec> ParseCreate(const RingRequest& request, const char** data);
absl::StatusOr<layout::DraftRequest> ParseDraft(const RingRequest& request);
absl::StatusOr<std::string_view> ParseLookup(const RingRequest& request, uint64_t* version);
absl::StatusOr<std::string_view> ParseCall(const RingRequest& request, uint32_t* method);

// Writes the answer and wakes the client. Too large an answer becomes RESOURCE_EXHAUSTED with the size that it needs.
void Respond(const RingRequest& request, const absl::Status& status, std::string_view response);

template <class T>
std::string_view AsBytes(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

}  // namespace penstock::server
