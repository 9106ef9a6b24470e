// Client: connecting and reading.
#include <penstock/client.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "client/connection.h"
#include "client/info.h"
#include "client/part.h"
#include "client/private_tensor.h"
#include "client/session/remote_reads.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "transport/copy/copy.h"
#include "transport/fault_point.h"

namespace penstock {

using client::Deadline;
using client::PinnedRecord;
using client::RemoteReads;
using client::Session;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const ClientOptions& options) {
  absl::StatusOr<std::shared_ptr<client::Connection>> connection =
      client::Connection::Open(options);
  if (!connection.ok()) return connection.status();
  return std::unique_ptr<Client>(new Client(*std::move(connection)));
}

Client::Client(std::shared_ptr<client::Connection> connection)
    : connection_(std::move(connection)) {}
Client::~Client() = default;

const std::string& Client::address() const { return connection_->session()->address(); }
uint64_t Client::session_id() const { return connection_->session()->id(); }

bool Client::GetWarm(std::string_view name, TensorView* view) {
  // Everything is mapped, the catalog answers. Anything unusual goes the long way.
  Session* session = connection_->session();
  client::PinTable& pins = session->pins();
  uint32_t slot = pins.TryTake();
  if (slot == client::PinTable::kNoSlot) slot = pins.TakeFree();
  if (slot == client::PinTable::kNoSlot) return false;
  PinnedRecord pinned{nullptr, slot};
  if (session->catalog().Find(name, pins, slot, &pinned.record) !=
      client::CatalogReader::Outcome::kPinned) {
    pins.Give(slot);
    return false;
  }
  const std::byte* base = session->segments().Address(pinned.record->segment);
  if (base == nullptr || !session->MayServe(pinned.record)) {
    session->Release(pinned);
    return false;
  }
  session->FillView(view, pinned, base + pinned.record->offset);
  return true;
}

absl::StatusOr<TensorView> Client::Get(std::string_view name) {
  absl::StatusOr<TensorView> view(absl::in_place);
  if (!GetWarm(name, &*view)) view = GetSlow(name, 0, connection_->DefaultDeadline());
  return view;  // one variable on every path: it is made in the caller's place
}

namespace {

absl::StatusOr<TensorView> ViewOf(Session* session, const PinnedRecord& pinned, const Deadline& deadline) {
  const absl::StatusOr<const std::byte*> data = session->DataOf(pinned.record, deadline);
  if (!data.ok()) {
    session->Release(pinned);
    return data.status();
  }
  PENSTOCK_FAULT_POINT("client.get.mapped");
  absl::StatusOr<TensorView> view(absl::in_place);
  session->FillView(&*view, pinned, *data);
  return view;
}

absl::StatusOr<TensorView> PartOfView(const TensorView& view, const GetOptions& options) {
  const absl::StatusOr<std::optional<Part>> part = client::PartOf(options, view.dtype(), view.shape());
  if (!part.ok()) return part.status();
  return *part ? view.Slice(**part) : view.Clone();
}

absl::Status CheckOut(std::string_view name, const void* out, uint64_t out_bytes, uint64_t nbytes) {
  if (out_bytes != nbytes) {
    return absl::InvalidArgumentError(StrCat("read \"", name, "\": out has ", out_bytes, " bytes, but ", nbytes, " are to be read"));
  }
  if (nbytes > 0 && out == nullptr) return absl::InvalidArgumentError("read: out is null");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TensorView> Client::GetSlow(std::string_view name, uint64_t version,
                                           const Deadline& deadline) {
  const absl::StatusOr<Session*> session = connection_->Live(deadline);
  if (!session.ok()) return session.status();
  const absl::StatusOr<PinnedRecord> pinned = (*session)->Acquire(name, version, deadline);
  if (!pinned.ok()) return pinned.status();
  return ViewOf(*session, *pinned, deadline);
}

absl::StatusOr<TensorView> Client::Get(std::string_view name, const GetOptions& options) {
  if (options.version == 0) {
    return absl::InvalidArgumentError("get: version 0 does not exist; leave it out for the present");
  }
  const bool some = options.box || options.part;
  if (some && !options.wait) {
    absl::StatusOr<std::optional<TensorView>> elsewhere = GetElsewhere(name, options);
    if (!elsewhere.ok()) return elsewhere.status();
    if (*elsewhere) return **std::move(elsewhere);
  }
  absl::StatusOr<TensorView> view =
      options.version ? GetSlow(name, *options.version, connection_->DefaultDeadline())
                      : Get(name);
  if (absl::IsNotFound(view.status()) && options.wait) {
    const Deadline deadline = Deadline::After(*options.wait);
    while (absl::IsNotFound(view.status())) {
      const absl::StatusOr<TensorInfo> there =
          Wait(name, options.version.value_or(0), deadline.Left());
      if (!there.ok()) return there.status();
      if (options.version && there->version.number != *options.version) return view;
      view = GetSlow(name, options.version.value_or(0), connection_->DefaultDeadline());
    }
  }
  if (!view.ok() || (!some && !options.check)) return view;
  return PartOfView(*view, options);
}

namespace {

bool IsHere(Session* session, std::string_view name, const GetOptions& options) {
  const std::optional<PinnedRecord> here = session->AcquireHere(name, options.version.value_or(0));
  if (here) session->Release(*here);
  return here.has_value();
}

// Nothing: this host has it, or is to have it.
absl::StatusOr<std::optional<RemoteReads::Done>> ReadRemote(Session* session, std::string_view name, const GetOptions& options,
                                                            const Deadline& deadline, const RemoteReads::Choose& choose) {
  if (IsHere(session, name, options)) return std::nullopt;
  const bool whole = !options.box && !options.part;
  return session->remote_reads().Read(
      name, {.version = options.version.value_or(0), .whole = whole, .rdma_only = session->require_rdma(), .deadline = deadline, .cancelled = options.cancelled}, choose);
}

}  // namespace

// A part of a tensor that this host does not have, in memory of this process's own. Nothing: to be got the other way.
absl::StatusOr<std::optional<TensorView>> Client::GetElsewhere(std::string_view name, const GetOptions& options) {
  const Deadline deadline = connection_->DefaultDeadline();
  const absl::StatusOr<Session*> session = connection_->Live(deadline);
  if (!session.ok()) return session.status();
  client::PrivateTensor::Pointer tensor;
  Shape shape;
  const auto choose = [&](const v1::TensorInfo& message) -> absl::StatusOr<std::optional<RemoteReads::Target>> {
    const TensorInfo info = client::InfoOf(message);
    const absl::StatusOr<std::optional<Part>> part = client::PartOf(options, info.dtype, info.shape);
    if (!part.ok()) return part.status();
    if (!*part) return std::nullopt;
    ByteRuns runs;
    // Most of a tensor: all processes of the host will be glad of a copy.
    if (!client::RunsOf(**part, info.dtype, &runs) || runs.bytes() > info.nbytes / 2) return std::nullopt;
    absl::StatusOr<client::PrivateTensor::Pointer> made = client::PrivateTensor::Make(message, runs.bytes());
    if (!made.ok()) return made.status();
    tensor = *std::move(made);
    shape = (*part)->shape;
    return RemoteReads::Target{runs, {tensor->data(), static_cast<size_t>(runs.bytes())}};
  };
  const auto read = ReadRemote(*session, name, options, deadline, choose);
  if (!read.ok()) return read.status();
  if (!*read) return std::nullopt;
  return client::PrivateTensor::View(std::move(tensor), *session, (*read)->path, shape);
}

namespace {

// Calls f(0) .. f(count - 1), some at a time: each may wait for another host.
template <class F>
void ForEachAtOnce(size_t count, const F& f) {
  constexpr size_t kMostThreads = 16;
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) f(i);
  };
  std::vector<std::thread> others;
  for (size_t i = 1; i < std::min(count, kMostThreads); ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
}

}  // namespace

std::vector<absl::StatusOr<TensorView>> Client::GetMany(absl::Span<const GetRequest> requests) {
  const absl::StatusOr<Session*> session = connection_->Live(connection_->DefaultDeadline());
  std::vector<absl::StatusOr<TensorView>> views;
  for (size_t i = 0; i < requests.size(); ++i) views.emplace_back(session.ok() ? absl::UnknownError("not asked") : session.status());
  if (!session.ok()) return views;
  std::vector<Session::Wanted> wanted;
  std::vector<size_t> together, alone;
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto& [name, options] = requests[i];
    // What waits, or is a part of what is not here, is a call of its own.
    const bool part_of_other = (options.box || options.part) && !IsHere(*session, name, options);
    if (options.wait || options.version == 0 || part_of_other) {
      alone.push_back(i);
    } else {
      together.push_back(i);
      wanted.push_back({name, options.version.value_or(0)});
    }
  }
  const absl::Duration timeout = connection_->timeout();
  std::vector<absl::StatusOr<PinnedRecord>> pinned = (*session)->AcquireMany(wanted, timeout);
  for (size_t k = 0; k < together.size(); ++k) {
    absl::StatusOr<TensorView>& view = views[together[k]];
    view = pinned[k].ok() ? ViewOf(*session, *pinned[k], Deadline::After(timeout)) : absl::StatusOr<TensorView>(pinned[k].status());
    const GetOptions& options = requests[together[k]].options;
    if (view.ok() && (options.box || options.part || options.check)) view = PartOfView(*view, options);
  }
  ForEachAtOnce(alone.size(), [&](size_t k) { views[alone[k]] = Get(requests[alone[k]].name, requests[alone[k]].options); });
  return views;
}

absl::StatusOr<TensorInfo> Client::ReadInto(std::string_view name, void* out, uint64_t out_bytes,
                                            const GetOptions& options) {
  if (options.version == 0) {
    return absl::InvalidArgumentError("read: version 0 does not exist; leave it out for the present");
  }
  if (!options.wait) {
    const absl::StatusOr<std::optional<TensorInfo>> elsewhere = ReadElsewhere(name, out, out_bytes, options);
    if (!elsewhere.ok()) return elsewhere.status();
    if (*elsewhere) return **elsewhere;
  }
  const GetOptions whole{.version = options.version, .wait = options.wait};
  absl::StatusOr<TensorView> view = Get(name, whole);
  if (!view.ok()) return view.status();
  view = PartOfView(*view, options);
  if (!view.ok()) return view.status();
  if (absl::Status s = CheckOut(name, out, out_bytes, view->nbytes()); !s.ok()) return s;
  if (out_bytes == 0) return view->info();
  if (view->contiguous()) {
    CopyBytes(out, view->data(), out_bytes);
    return view->info();
  }
  const Strides dense = ContiguousStrides(view->dtype(), view->shape());
  absl::Status copied = CopyStrided({.dst = out,
                                     .src = view->data(),
                                     .shape = view->shape().dims(),
                                     .dst_strides = dense.span(),
                                     .src_strides = view->strides(),
                                     .itemsize = ItemSize(view->dtype())});
  if (!copied.ok()) return copied;
  return view->info();
}

// Straight from another node. Nothing: to be copied from what the node has.
absl::StatusOr<std::optional<TensorInfo>> Client::ReadElsewhere(std::string_view name, void* out, uint64_t out_bytes,
                                                                const GetOptions& options) {
  const Deadline deadline = connection_->DefaultDeadline();
  const absl::StatusOr<Session*> session = connection_->Live(deadline);
  if (!session.ok()) return session.status();
  const auto choose = [&](const v1::TensorInfo& message) -> absl::StatusOr<std::optional<RemoteReads::Target>> {
    const TensorInfo info = client::InfoOf(message);
    const absl::StatusOr<std::optional<Part>> part = client::PartOf(options, info.dtype, info.shape);
    if (!part.ok()) return part.status();
    ByteRuns runs = ByteRuns::Whole(info.nbytes);
    if (*part && !client::RunsOf(**part, info.dtype, &runs)) return std::nullopt;
    if (absl::Status s = CheckOut(name, out, out_bytes, runs.bytes()); !s.ok()) return s;
    return RemoteReads::Target{runs, {static_cast<char*>(out), static_cast<size_t>(out_bytes)}};
  };
  const auto read = ReadRemote(*session, name, options, deadline, choose);
  if (!read.ok()) return read.status();
  if (!*read) return std::nullopt;
  return client::InfoOf((*read)->info);
}

absl::StatusOr<bool> Client::Exists(std::string_view name) {
  const absl::StatusOr<TensorInfo> info = Stat(name);
  if (absl::IsNotFound(info.status())) return false;
  if (!info.ok()) return info.status();
  return true;
}

}  // namespace penstock
