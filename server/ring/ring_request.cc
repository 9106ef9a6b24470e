#include "server/ring/ring_request.h"

#include <algorithm>
#include <cstring>

#include "proto/errors.h"
#include "proto/strcat.h"
#include "transport/futex.h"

namespace penstock::server {

namespace {

constexpr uint32_t kHeaderBytes = sizeof(layout::RequestBlock);

// Reads one word of memory that another process may be writing.
uint32_t ReadOnce(const uint32_t& word) { return __atomic_load_n(&word, __ATOMIC_RELAXED); }

layout::RequestBlock* BlockOf(const RingRequest& request) { return reinterpret_cast<layout::RequestBlock*>(request.block); }

absl::Status CutOff(std::string why) { return absl::FailedPreconditionError("ring: " + why); }

}  // namespace

absl::Status ReadRequest(char* ring, uint32_t unit, RingRequest* request) {
  const uint64_t offset = uint64_t{unit} * layout::kBlockUnit;
  if (offset < layout::kRingStagingOffset || offset + kHeaderBytes > layout::kRingBytes) {
    return CutOff(StrCat("block offset ", offset, " is outside the staging area"));
  }
  request->block = ring + offset;
  const auto* block = BlockOf(*request);
  request->block_bytes = ReadOnce(block->block_bytes);
  const uint32_t request_bytes = ReadOnce(block->request_bytes);
  request->response_offset = ReadOnce(block->response_offset);
  request->op = static_cast<layout::RingOp>(ReadOnce(block->op));
  request->request_id = __atomic_load_n(&block->request_id, __ATOMIC_RELAXED);
  if (request->block_bytes < kHeaderBytes + layout::kMinResponseBytes || offset + request->block_bytes > layout::kRingBytes) {
    return CutOff(StrCat("block_bytes ", request->block_bytes, " at ", offset));
  }
  if (request->response_offset < kHeaderBytes || request->response_offset % 8 != 0 ||
      request->response_offset > request->block_bytes - layout::kMinResponseBytes) {
    return CutOff(StrCat("response_offset ", request->response_offset, " in a block of ", request->block_bytes));
  }
  request->response_capacity = request->block_bytes - request->response_offset;
  if (request_bytes > request->block_bytes - kHeaderBytes || request_bytes > kMaxRequestBytes) {
    return CutOff(StrCat("request_bytes ", request_bytes, " in a block of ", request->block_bytes));
  }
  request->body.assign(request->block + kHeaderBytes, request_bytes);
  return absl::OkStatus();
}

void PrefetchRequest(const char* ring, uint32_t unit) {
  constexpr uint64_t kLines = 8;  // header, body, the beginning of the data: the rest is read in order
  const uint64_t offset = uint64_t{unit} * layout::kBlockUnit;
  if (offset > layout::kRingBytes - kLines * layout::kBlockUnit) return;
  for (uint64_t line = 0; line < kLines; ++line) __builtin_prefetch(ring + offset + line * layout::kBlockUnit);
}

bool IsUnanswered(const RingRequest& request) {
  const auto state = static_cast<layout::BlockState>(BlockOf(request)->state.load(std::memory_order_acquire));
  return state == layout::BlockState::kPending || state == layout::BlockState::kWaiting;
}

absl::StatusOr<CreateSpec> ParseCreate(const RingRequest& request, const char** data) {
  layout::CreateRequest create;
  std::string_view rest = request.body;
  if (rest.size() < sizeof(create)) return absl::InvalidArgumentError(StrCat("request of ", rest.size(), " bytes is cut off"));
  std::memcpy(&create, rest.data(), sizeof(create));
  rest.remove_prefix(sizeof(create));
  if (create.rank > kMaxRank) return absl::InvalidArgumentError(StrCat("rank: ", create.rank, " is more than ", kMaxRank));
  if (rest.size() != 8 * size_t{create.rank} + create.name_bytes + create.metadata_bytes) {
    return absl::InvalidArgumentError(StrCat("request: ", rest.size(), " bytes follow, not what rank, name and metadata take"));
  }
  if (create.flags & ~(layout::kRecordKeep | layout::kRecordSoftPin)) return absl::InvalidArgumentError(StrCat("flags: ", create.flags, " has unknown bits"));
  if (create.purpose > layout::Purpose::kBound) return absl::InvalidArgumentError(StrCat("purpose: ", static_cast<int>(create.purpose), " is not known to this node"));
  int64_t dims[kMaxRank];
  std::memcpy(dims, rest.data(), 8 * create.rank);
  rest.remove_prefix(8 * create.rank);
  absl::StatusOr<Shape> shape = Shape::Create(absl::MakeConstSpan(dims, create.rank));
  if (!shape.ok()) return shape.status();
  CreateSpec spec{.name = rest.substr(0, create.name_bytes), .dtype = static_cast<DType>(create.dtype), .shape = *shape,
                  .nbytes = create.nbytes, .version = create.version, .if_version = create.if_version, .ttl_ns = create.ttl_ns,
                  .keep = (create.flags & layout::kRecordKeep) != 0, .soft_pin = (create.flags & layout::kRecordSoftPin) != 0, .replicas = create.replicas,
                  .metadata = rest.substr(create.name_bytes), .request_id = request.request_id,
                  .purpose = create.purpose};
  if (request.op == layout::RingOp::kReserve) return spec;
  if (create.nbytes > layout::kMaxStagedPut) {
    return absl::InvalidArgumentError(StrCat("nbytes: ", create.nbytes, " is more than a staged put takes (", layout::kMaxStagedPut, ")"));
  }
  if (create.data_offset < kHeaderBytes || create.data_offset > request.block_bytes || create.nbytes > request.block_bytes - create.data_offset) {
    return absl::InvalidArgumentError(StrCat("data_offset: ", create.data_offset, " + ", create.nbytes, " is outside the block of ", request.block_bytes));
  }
  spec.in_arena = true;
  *data = request.block + create.data_offset;
  return spec;
}

absl::StatusOr<layout::DraftRequest> ParseDraft(const RingRequest& request) {
  layout::DraftRequest draft;
  if (request.body.size() != sizeof(draft)) return absl::InvalidArgumentError(StrCat("request of ", request.body.size(), " bytes, not ", sizeof(draft)));
  std::memcpy(&draft, request.body.data(), sizeof(draft));
  return draft;
}

absl::StatusOr<std::string_view> ParseLookup(const RingRequest& request, uint64_t* version) {
  layout::LookupRequest lookup;
  std::string_view rest = request.body;
  if (rest.size() < sizeof(lookup)) return absl::InvalidArgumentError(StrCat("request of ", rest.size(), " bytes is cut off"));
  std::memcpy(&lookup, rest.data(), sizeof(lookup));
  rest.remove_prefix(sizeof(lookup));
  if (lookup.name_bytes != rest.size()) return absl::InvalidArgumentError(StrCat("name_bytes: ", lookup.name_bytes, ", but ", rest.size(), " bytes follow"));
  *version = lookup.version;
  return rest;
}

absl::StatusOr<std::string_view> ParseCall(const RingRequest& request, uint32_t* method) {
  layout::CallRequest call;
  std::string_view rest = request.body;
  if (rest.size() < sizeof(call)) return absl::InvalidArgumentError(StrCat("request of ", rest.size(), " bytes is cut off"));
  std::memcpy(&call, rest.data(), sizeof(call));
  rest.remove_prefix(sizeof(call));
  if (call.message_bytes != rest.size()) return absl::InvalidArgumentError(StrCat("message_bytes: ", call.message_bytes, ", but ", rest.size(), " bytes follow"));
  *method = call.method;
  return rest;
}

void Respond(const RingRequest& request, const absl::Status& status, std::string_view response) {
  layout::RequestBlock* block = BlockOf(request);
  absl::Status result = status;
  if (result.ok() && response.size() > request.response_capacity) {
    result = absl::ResourceExhaustedError(StrCat("response needs ", response.size(), " bytes"));
  }
  const std::string text(result.message());
  const std::string_view bytes = result.ok() ? response : std::string_view(text).substr(0, request.response_capacity);
  std::memcpy(request.block + request.response_offset, bytes.data(), bytes.size());
  block->status_code = static_cast<int32_t>(result.code());
  block->is_transport_error = IsTransportError(result) ? 1 : 0;
  block->response_bytes = static_cast<uint32_t>(bytes.size());
  const uint32_t before = block->state.exchange(static_cast<uint32_t>(layout::BlockState::kDone), std::memory_order_seq_cst);
  if (before == static_cast<uint32_t>(layout::BlockState::kWaiting)) FutexWake(&block->state);
}

}  // namespace penstock::server
