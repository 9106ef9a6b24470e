// Session: finding and pinning tensors, and filling views.
#include <algorithm>
#include <deque>
#include <utility>

#include "client/session/session.h"
#include "proto/names.h"
#include "proto/strcat.h"

namespace penstock::client {
namespace {

using layout::Record;
using Outcome = CatalogReader::Outcome;

// A slot that goes back unless it was kept.
class SlotGuard {
 public:
  SlotGuard(PinTable* pins, uint32_t slot) : pins_(pins), slot_(slot) {}
  ~SlotGuard() {
    if (slot_ != PinTable::kNoSlot) pins_->Give(slot_);
  }
  uint32_t Keep() { return std::exchange(slot_, PinTable::kNoSlot); }
  uint32_t slot() const { return slot_; }

 private:
  PinTable* pins_;
  uint32_t slot_;
};

}  // namespace

absl::Status NoSuchTensor(std::string_view name, uint64_t version) {
  if (version == 0) return absl::NotFoundError(StrCat("no tensor \"", name, "\""));
  return absl::NotFoundError(StrCat("no version ", version, " of tensor \"", name, "\""));
}

absl::StatusOr<PinnedRecord> Session::Acquire(std::string_view name, uint64_t version,
                                              const Deadline& deadline) {
  if (absl::Status s = ValidateName(name); !s.ok()) return s;
  uint32_t taken = pins_.TryTake();
  if (taken == PinTable::kNoSlot) {
    absl::StatusOr<uint32_t> slot = pins_.TakeSlow();
    if (!slot.ok()) return slot.status();
    taken = *slot;
  }
  SlotGuard guard(&pins_, taken);
  PinnedRecord pinned;
  while (true) {
    Outcome outcome = catalog_.Find(name, pins_, guard.slot(), &pinned.record);
    if (outcome == Outcome::kPinned) {
      if (MayServe(pinned.record, version)) {
        pinned.slot = guard.Keep();
        return pinned;
      }
      pins_.Clear(guard.slot());
    }
    if (outcome == Outcome::kNotMapped) {
      if (absl::Status s = catalog_.Refresh(deadline); !s.ok()) return s;
    } else if (outcome == Outcome::kClosed) {
      if (!pins_.WaitOpen()) return EndedError();
    } else {
      const auto found = Lookup(layout::RingOp::kLookup, name, version, deadline);
      if (absl::IsNotFound(found.status())) return NoSuchTensor(name, version);
      if (!found.ok()) return found.status();
      if (absl::Status s = catalog_.MapChunkOf(found->record, deadline); !s.ok()) return s;
      outcome = catalog_.Pin(found->record, found->record_seq, pins_, guard.slot(),
                             &pinned.record);
      if (outcome == Outcome::kPinned) {
        pinned.slot = guard.Keep();
        return pinned;
      }
    }
    if (ended()) return EndedError();
    if (deadline.Passed()) {
      return absl::DeadlineExceededError(
          StrCat("tensor \"", name, "\" changed whenever it was looked at"));
    }
  }
}

std::optional<PinnedRecord> Session::AcquireHere(std::string_view name, uint64_t version) {
  uint32_t slot = pins_.TryTake();
  if (slot == PinTable::kNoSlot) slot = pins_.TakeFree();
  if (slot == PinTable::kNoSlot) return std::nullopt;
  PinnedRecord pinned{nullptr, slot};
  if (catalog_.Find(name, pins_, slot, &pinned.record) != Outcome::kPinned) {
    pins_.Give(slot);
    return std::nullopt;
  }
  if (MayServe(pinned.record, version)) {
    return pinned;
  }
  Release(pinned);
  return std::nullopt;
}

std::vector<absl::StatusOr<PinnedRecord>> Session::AcquireMany(absl::Span<const Wanted> wanted,
                                                               absl::Duration timeout) {
  constexpr size_t kMostAsked = 1024;  // at a time
  std::vector<absl::StatusOr<PinnedRecord>> results(wanted.size(), absl::UnknownError("not asked"));
  std::deque<std::pair<size_t, RingRequest>> asked;
  Deadline deadline = Deadline::After(timeout);  // put off by each tensor that comes
  const auto take_first = [&] {
    auto [i, request] = std::move(asked.front());
    asked.pop_front();
    results[i] = TakeFound(wanted[i], std::move(request), deadline);
    if (results[i].ok()) deadline = Deadline::After(timeout);
  };
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto [name, version] = wanted[i];
    if (absl::Status s = ValidateName(name); !s.ok()) {
      results[i] = std::move(s);
    } else if (const std::optional<PinnedRecord> here = AcquireHere(name, version)) {
      results[i] = *here;
    } else {
      if (asked.size() == kMostAsked) {
        ring_.WakeNode();
        take_first();
      }
      absl::StatusOr<RingRequest> request =
          LookupRequest(layout::RingOp::kLookup, name, version, deadline);
      if (!request.ok()) {
        results[i] = request.status();
        continue;
      }
      request->Submit(/*wake=*/false);
      asked.emplace_back(i, *std::move(request));
    }
  }
  if (!asked.empty()) ring_.WakeNode();
  while (!asked.empty()) take_first();
  return results;
}

absl::StatusOr<PinnedRecord> Session::TakeFound(const Wanted& wanted, RingRequest request,
                                                const Deadline& deadline) {
  absl::Status status = request.Wait(deadline);
  if (absl::IsNotFound(status)) return NoSuchTensor(wanted.name, wanted.version);
  if (!status.ok()) return status;
  const auto found = request.ResponseAs<layout::LookupResponse>();
  if (!found.ok()) return found.status();
  if (absl::Status s = catalog_.MapChunkOf(found->record, deadline); !s.ok()) return s;
  if (const uint32_t slot = pins_.TryTake(); slot != PinTable::kNoSlot) {
    PinnedRecord pinned{nullptr, slot};
    if (catalog_.Pin(found->record, found->record_seq, pins_, slot, &pinned.record) == Outcome::kPinned) {
      return pinned;
    }
    pins_.Give(slot);
  }
  request.Finish();
  return Acquire(wanted.name, wanted.version, deadline);  // changed again already, or pins are few
}

absl::StatusOr<const std::byte*> Session::DataOf(const Record* record, const Deadline& deadline) {
  alignas(64) static const std::byte nothing[64] = {};
  if (record->nbytes == 0) return nothing;
  const std::byte* base = segments_.Address(record->segment);
  if (base == nullptr) {
    const absl::StatusOr<const std::byte*> mapped = segments_.Map(record->segment, deadline);
    if (!mapped.ok()) return mapped.status();
    base = *mapped;
  }
  return base + record->offset;
}

void Session::FillView(TensorView* view, const PinnedRecord& pinned, const std::byte* data) {
  const Record* record = pinned.record;
  Ref();
  view->session_ = this;
  view->record_ = record;
  view->data_ = data;
  view->pin_ = pinned.slot;
  const int rank = std::min<int>(record->rank, kMaxRank);
  const int64_t* dims = layout::RecordShape(record);
  view->shape_.AssignChecked(dims, rank);
  auto stride = static_cast<int64_t>(ItemSize(static_cast<DType>(record->dtype)));
  for (int i = rank - 1; i >= 0; --i) {
    view->strides_[i] = stride;
    if (dims[i] != 0) stride *= dims[i];
  }
}

}  // namespace penstock::client
