// Client: Put, PutMany, Create.
#include <deque>
#include <utility>

#include "client/connection.h"
#include "client/internal_names.h"
#include "client/put_spec.h"
#include "client/session/fork.h"
#include "transport/fault_point.h"

namespace penstock {
namespace {

using client::Deadline;
using client::Gather;
using client::PutSpec;
using client::PutTerms;
using client::RingRequest;
using client::Session;
using layout::CreateResponse;
using layout::RingOp;

// The node itself waits some seconds for memory before it says that the store is full; that answer
// is worth more than our own "no answer".
constexpr absl::Duration kGrace = absl::Milliseconds(500);

client::RingRequestSizes StagedSizes(const PutSpec& spec) {
  return {.op = RingOp::kPut,
          .request_bytes = spec.request_bytes(),
          .data_bytes = static_cast<uint32_t>(spec.nbytes())};
}

absl::Status FillStaged(const PutSpec& spec, const ConstTensorRef& tensor, RingRequest* request) {
  spec.Encode(request->body(), request->data_offset());
  return Gather(tensor, spec.nbytes(), request->data());
}

absl::StatusOr<TensorInfo> StagedResult(Session* session, const PutSpec& spec,
                                        const PutTerms& terms, RingRequest* request,
                                        const Deadline& deadline) {
  if (absl::Status s = request->Wait(deadline); !s.ok()) return terms.Explain(std::move(s));
  PENSTOCK_FAULT_POINT("client.put.answered");
  const absl::StatusOr<CreateResponse> made = request->ResponseAs<CreateResponse>();
  if (!made.ok()) return made.status();
  return spec.Info(*made, session->catalog().node_uuid(), /*kernel_immutable=*/true);
}

// Small: through the ring's staging area, one request.
absl::StatusOr<TensorInfo> PutStaged(Session* session, const PutSpec& spec, const PutTerms& terms,
                                     const ConstTensorRef& tensor, const Deadline& deadline) {
  absl::StatusOr<RingRequest> request = session->Request(StagedSizes(spec), deadline);
  if (!request.ok()) return request.status();
  if (absl::Status s = FillStaged(spec, tensor, &*request); !s.ok()) return s;
  PENSTOCK_FAULT_POINT("client.put.staged");
  request->Submit();
  PENSTOCK_FAULT_POINT("client.put.submitted");
  return StagedResult(session, spec, terms, &*request, deadline);
}

absl::StatusOr<CreateResponse> ReserveFor(Session* session, const PutSpec& spec,
                                          const PutTerms& terms, const Deadline& deadline) {
  absl::StatusOr<CreateResponse> reserved = session->Reserve(
      spec.request_bytes(), [&](char* body) { spec.Encode(body, 0); }, deadline);
  if (!reserved.ok()) return terms.Explain(reserved.status());
  return reserved;
}

// Large: straight into a block of an extent.
absl::StatusOr<TensorInfo> PutInExtent(Session* session, const PutSpec& spec,
                                       const PutTerms& terms, const ConstTensorRef& tensor,
                                       const Deadline& deadline) {
  const absl::StatusOr<CreateResponse> draft = ReserveFor(session, spec, terms, deadline);
  if (!draft.ok()) return draft.status();
  PENSTOCK_FAULT_POINT("client.put.reserved");
  const absl::StatusOr<std::byte*> block =
      session->segments().WritableBlock(draft->segment, draft->offset, spec.nbytes());
  absl::Status filled =
      block.ok() ? Gather(tensor, spec.nbytes(), *block) : absl::Status(block.status());
  if (!filled.ok()) {
    session->AbortDraft(draft->record, draft->record_seq);
    return filled;
  }
  PENSTOCK_FAULT_POINT("client.put.filled");
  const absl::StatusOr<CreateResponse> made =
      session->Publish(draft->record, draft->record_seq, deadline);
  if (!made.ok()) return terms.Explain(made.status());
  return spec.Info(*made, session->catalog().node_uuid(), /*kernel_immutable=*/false);
}

absl::StatusOr<TensorInfo> PutOne(Session* session, const PutSpec& spec, const PutTerms& terms,
                                  const ConstTensorRef& tensor, const Deadline& deadline) {
  if (absl::Status s = client::CheckSource(tensor, spec.nbytes()); !s.ok()) return s;
  if (spec.nbytes() <= layout::kMaxStagedPut) {
    return PutStaged(session, spec, terms, tensor, deadline);
  }
  return PutInExtent(session, spec, terms, tensor, deadline);
}

// One pass over many small puts. Answers are taken in order while the next ones are being made: the
// staging blocks that they give back are the next ones to be filled, and are still in the cache.
class PutPipeline {
 public:
  PutPipeline(Session* session, const PutTerms& terms, absl::Span<const PutRequest> requests,
              const Deadline& deadline, std::vector<absl::StatusOr<TensorInfo>>* results)
      : session_(session),
        terms_(terms),
        requests_(requests),
        deadline_(deadline),
        results_(*results) {}

  void Run() {
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (absl::Status s = PutAt(i); !s.ok()) results_[i] = std::move(s);
    }
    Drain(0);
  }

 private:
  static constexpr uint32_t kWakeEvery = 16;
  static constexpr size_t kWindow = 256;  // requests in flight
  struct InFlight {
    size_t index;
    PutSpec spec;
    RingRequest request;
  };

  // OK: the result is there, or comes with the answer.
  absl::Status PutAt(size_t i) {
    const ConstTensorRef& tensor = requests_[i].tensor;
    absl::StatusOr<PutSpec> spec =
        PutSpec::Check(requests_[i].name, tensor.dtype, tensor.shape, terms_);
    if (!spec.ok()) return spec.status();
    if (absl::Status s = client::CheckSource(tensor, spec->nbytes()); !s.ok()) return s;
    if (spec->nbytes() > layout::kMaxStagedPut) {
      Drain(0);  // names may repeat: what was asked first happens first
      results_[i] = PutInExtent(session_, *spec, terms_, tensor, deadline_);
      return absl::OkStatus();
    }
    if (absl::Status s = session_->PrepareRing(deadline_); !s.ok()) return s;
    std::optional<RingRequest> request = session_->ring().TryAllocate(StagedSizes(*spec));
    if (!request) {
      Drain(in_flight_.size() / 2);
      absl::StatusOr<RingRequest> waited = session_->Request(StagedSizes(*spec), deadline_);
      if (!waited.ok()) return waited.status();
      request = *std::move(waited);
    }
    if (absl::Status s = FillStaged(*spec, tensor, &*request); !s.ok()) return s;
    request->Submit(/*wake=*/unwoken_++ % kWakeEvery == 0);
    PENSTOCK_FAULT_POINT("client.put_many.submitted");
    in_flight_.push_back({i, *spec, *std::move(request)});
    if (in_flight_.size() == kWindow) Drain(kWindow / 2);
    TakeAnswered();
    return absl::OkStatus();
  }

  // Waits until at most `left` are in flight. The last one is waited for first: the node answers in
  // order, so that is one sleep for all.
  void Drain(size_t left) {
    if (in_flight_.size() <= left) return;
    PENSTOCK_FAULT_POINT("client.put_many.waiting");
    session_->ring().WakeNode();
    (void)in_flight_[in_flight_.size() - left - 1].request.Wait(deadline_);
    while (in_flight_.size() > left) TakeFirst();
  }

  void TakeAnswered() {
    while (!in_flight_.empty() && in_flight_.front().request.done()) TakeFirst();
  }

  void TakeFirst() {
    InFlight& first = in_flight_.front();
    results_[first.index] = StagedResult(session_, first.spec, terms_, &first.request, deadline_);
    in_flight_.pop_front();
    PENSTOCK_FAULT_POINT("client.put_many.taken");
  }

  Session* const session_;
  const PutTerms& terms_;
  const absl::Span<const PutRequest> requests_;
  const Deadline& deadline_;
  std::vector<absl::StatusOr<TensorInfo>>& results_;
  std::deque<InFlight> in_flight_;
  uint32_t unwoken_ = 0;
};

}  // namespace

namespace client {

std::vector<absl::StatusOr<TensorInfo>> PutMany(Connection& connection, layout::Purpose purpose,
                                                absl::Span<const PutRequest> requests,
                                                const PutOptions& options) {
  const auto all = [&](const absl::Status& status) {
    return std::vector<absl::StatusOr<TensorInfo>>(requests.size(), status);
  };
  const absl::StatusOr<PutTerms> terms = PutTerms::Check(options, purpose);
  if (!terms.ok()) return all(terms.status());
  const Deadline deadline = Deadline::After(connection.timeout() + kGrace);
  const absl::StatusOr<Session*> session = connection.Live(deadline);
  if (!session.ok()) return all(session.status());
  auto results = all(absl::UnknownError("not asked"));
  PutPipeline(*session, *terms, requests, deadline, &results).Run();
  return results;
}

}  // namespace client

absl::StatusOr<TensorInfo> Client::Put(std::string_view name, const ConstTensorRef& tensor,
                                       const PutOptions& options) {
  const absl::StatusOr<PutTerms> terms = PutTerms::Check(options);
  if (!terms.ok()) return terms.status();
  const absl::StatusOr<PutSpec> spec =
      PutSpec::Check(name, tensor.dtype, tensor.shape, *terms);
  if (!spec.ok()) return spec.status();
  const Deadline deadline = Deadline::After(connection_->timeout() + kGrace);
  const absl::StatusOr<Session*> session = connection_->Live(deadline);
  if (!session.ok()) return session.status();
  return PutOne(*session, *spec, *terms, tensor, deadline);
}

std::vector<absl::StatusOr<TensorInfo>> Client::PutMany(absl::Span<const PutRequest> requests,
                                                        const PutOptions& options) {
  return client::PutMany(*connection_, layout::Purpose::kUser, requests, options);
}

absl::StatusOr<Draft> Client::Create(std::string_view name, DType dtype, const Shape& shape,
                                     const PutOptions& options) {
  return CreateFor(layout::Purpose::kUser, name, dtype, shape, options);
}

absl::StatusOr<Draft> Client::CreateFor(layout::Purpose purpose, std::string_view name, DType dtype,
                                        const Shape& shape, const PutOptions& options) {
  const absl::StatusOr<PutTerms> terms = PutTerms::Check(options, purpose);
  if (!terms.ok()) return terms.status();
  const absl::StatusOr<PutSpec> spec = PutSpec::Check(name, dtype, shape, *terms);
  if (!spec.ok()) return spec.status();
  const Deadline deadline = Deadline::After(connection_->timeout() + kGrace);
  const absl::StatusOr<Session*> live = connection_->Live(deadline);
  if (!live.ok()) return live.status();
  Session* session = *live;
  const absl::StatusOr<CreateResponse> reserved =
      ReserveFor(session, *spec, *terms, deadline);
  if (!reserved.ok()) return reserved.status();
  PENSTOCK_FAULT_POINT("client.create.reserved");

  alignas(64) static std::byte nothing[64];  // what the data of a tensor without bytes points to
  std::byte* data = nothing;
  if (spec->nbytes() > 0) {
    const absl::StatusOr<std::byte*> block =
        session->segments().WritableBlock(reserved->segment, reserved->offset, spec->nbytes());
    if (!block.ok()) {
      session->AbortDraft(reserved->record, reserved->record_seq);
      return block.status();
    }
    data = *block;
  }
  Draft draft;
  session->Ref();
  draft.session_ = session;
  draft.data_ = data;
  draft.nbytes_ = spec->nbytes();
  draft.record_ = reserved->record;
  draft.record_seq_ = reserved->record_seq;
  draft.segment_ = reserved->segment;
  draft.offset_ = reserved->offset;
  draft.fork_count_ = client::ForkList::fork_count();
  draft.dtype_ = dtype;
  draft.shape_ = shape;
  draft.info_ =
      spec->Info(*reserved, session->catalog().node_uuid(), /*kernel_immutable=*/false);
  draft.conflict_if_exists_ = !options.if_absent;
  draft.ttl_ = options.ttl;
  draft.timeout_ = connection_->timeout();
  return draft;
}

}  // namespace penstock
