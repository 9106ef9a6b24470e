// Look-ups by the node, lists, events and accounting.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "proto/layout/metadata_codec.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "server/store/store.h"
#include "transport/monotonic.h"

namespace penstock::server {

using layout::Record;
using layout::RecordRef;

namespace {
constexpr int kListSlice = 256;
}  // namespace

absl::Status Store::MayServeNames() const {
  if (!knows_others_.load()) return absl::UnavailableError("this node does not know the other nodes of its cluster yet; try again");
  const uint64_t until = header_->serve_until_ns.load();
  if (until == UINT64_MAX || static_cast<uint64_t>(absl::ToUnixNanos(MonotonicNow())) < until) return absl::OkStatus();
  return absl::UnavailableError("this node has no place in its cluster now, and serves no names (exact versions and views go on); `penstock nodes` tells why");
}

absl::StatusOr<RecordRef> Store::FindLive(std::string_view name, uint64_t version) {
  if (version == 0) {
    if (absl::Status s = MayServeNames(); !s.ok()) return s;
  }
  const RecordRef ref = FindOwn(name);
  if (version != 0 && (ref == 0 || slabs_->At(ref)->version_number != version)) {
    if (const RecordRef aside = FindAsideVersion(name, version); aside != 0) return aside;
  }
  if (ref == 0) return absl::NotFoundError(StrCat("'", name, "': no such tensor"));
  const uint64_t present = slabs_->At(ref)->version_number;
  if (version != 0 && version != present) {
    return absl::NotFoundError(StrCat("'", name, "': version ", version, " is not here; the present version is ", present));
  }
  return ref;
}

absl::StatusOr<Published> Store::Lookup(std::string_view name, uint64_t version) {
  std::lock_guard lock(mutex_);
  return FindPublished(name, version);
}

absl::StatusOr<Published> Store::LookupResident(std::string_view name, uint64_t version) {
  std::lock_guard lock(mutex_);
  absl::StatusOr<Published> found = FindPublished(name, version);
  if (!found.ok()) return found;
  Touch(found->record);
  if (found->spilled) return BringBack(found->record);
  return found;
}

absl::StatusOr<Published> Store::FindPublished(std::string_view name, uint64_t version) {
  if (const RecordRef copy = index_->Find(name, index_->Hash(name)); copy != 0 && (slabs_->At(copy)->flags & layout::kRecordFetched)) {
    const Published published = PublishedOf(copy);
    if (version == published.version_number) return published;
    if (version == 0) {
      if (absl::Status s = MayServeNames(); !s.ok()) return s;
      return published;
    }
  }
  absl::StatusOr<RecordRef> ref = FindLive(name, version);
  if (!ref.ok()) return ref.status();
  return PublishedOf(*ref);
}

absl::StatusOr<v1::TensorInfo> Store::Stat(std::string_view name, uint64_t version) {
  std::lock_guard lock(mutex_);
  absl::StatusOr<RecordRef> ref = FindLive(name, version);
  if (!ref.ok()) return ref.status();
  v1::TensorInfo info;
  FillInfo(*ref, &info);
  return info;
}

absl::StatusOr<Store::HeldTensor> Store::Hold(std::string_view name, uint64_t version, absl::Duration lease) {
  std::lock_guard lock(mutex_);
  absl::StatusOr<RecordRef> ref = FindLive(name, version);
  if (!ref.ok()) return ref.status();
  const Record* record = slabs_->At(*ref);
  Touch(*ref);
  if (IsSpilled(record)) return BringBack(*ref);
  HeldTensor held = HoldRecord(*ref);
  if (const uint64_t expiry = ExpiryOf(record); expiry != 0) lease = std::min(lease, absl::FromUnixNanos(static_cast<int64_t>(expiry)) - absl::Now());
  if (lease > absl::ZeroDuration()) {
    const absl::Time now = MonotonicNow();
    leases_.Grant(record->name_hash, now + lease, now);
    held.lease = lease;
    const auto until = static_cast<uint64_t>(absl::ToUnixNanos(now + lease));
    if (until > header_->leased_until_ns.load()) header_->leased_until_ns.store(until);
  }
  return held;
}

absl::StatusOr<Store::HeldTensor> Store::HoldByOp(std::string_view name, directory::OpId op) {
  std::lock_guard lock(mutex_);
  const RecordRef ref = FindDirectory(name, op);
  if (ref == 0) return absl::NotFoundError(StrCat("'", name, "': this node has no record of operation ", op.session, "/", op.count));
  Touch(ref);
  if (IsSpilled(slabs_->At(ref))) return BringBack(ref);
  return HoldRecord(ref);
}

absl::StatusOr<Store::HeldTensor> Store::HoldDraft(const Session& session, RecordRef ref, uint64_t seq) {
  std::lock_guard lock(mutex_);
  if (const absl::StatusOr<Record*> draft = FindDraft(session, ref, seq); !draft.ok()) return draft.status();
  return HoldRecord(ref);
}

absl::StatusOr<Store::HeldTensor> Store::HoldLive(RecordRef ref, uint64_t seq) {
  std::lock_guard lock(mutex_);
  if (!slabs_->IsSlot(ref) || slabs_->At(ref)->seq.load() != seq || !(seq & 1)) return absl::NotFoundError("no such live record");
  HeldTensor held = HoldRecord(ref);
  if (held.info.expires_ns() >= layout::kLeaseBase) held.info.set_expires_ns(0);  // of a lease
  return held;
}

// What is prepared is pinned as what it will be when it is live.
Store::HeldTensor Store::HoldRecord(RecordRef ref) {
  const Record* record = slabs_->At(ref);
  HeldTensor held;
  FillInfo(ref, &held.info);
  held.data = record->nbytes == 0 ? nullptr : blocks_.Address(record->segment, record->offset);
  if (const DataSegment* data = blocks_.Find(record->segment)) held.segment = data->shared;
  const uint64_t pin = layout::PinWord(ref, record->seq.load() | 1);
  ++held_[pin];
  // Shared by what stands for the pin and by every transfer that uses it.
  held.hold = std::shared_ptr<const void>(record, [this, pin](const void*) { Unhold(pin); });
  return held;
}

void Store::Unhold(uint64_t pin) {
  std::lock_guard lock(mutex_);
  if (auto held = held_.find(pin); --held->second == 0) held_.erase(held);
}

void Store::FillInfo(RecordRef ref, v1::TensorInfo* info) const {
  const Record* record = slabs_->At(ref);
  info->set_name(std::string(NameOf(record)));
  info->mutable_version()->set_term(record->version_term);
  info->mutable_version()->set_number(record->version_number);
  info->set_dtype(record->dtype);
  for (int i = 0; i < record->rank; ++i) info->add_shape(layout::RecordShape(record)[i]);
  info->set_nbytes(record->nbytes);
  info->set_created_ns(record->created_ns);
  info->set_keep(record->flags & layout::kRecordKeep);
  info->set_expires_ns(ExpiryOf(record));
  info->set_replicas(record->replicas);
  if (const auto crc32c = layout::ChecksumOf(record)) info->set_crc32c(*crc32c);
  info->set_soft_pin(record->flags & layout::kRecordSoftPin);
  info->set_spilled(IsSpilled(record));
  info->set_immutable(record->flags & layout::kRecordKernelImmutable ? "kernel" : "writer");
  if (record->metadata_bytes > 0) {
    auto metadata = layout::DecodeMetadata({layout::RecordMetadata(record), record->metadata_bytes});
    for (const auto& [key, value] : *metadata) (*info->mutable_metadata())[key] = value;
  }
  info->mutable_location()->set_segment(record->segment);
  info->mutable_location()->set_offset(record->offset);
  info->mutable_location()->set_record(ref);
  info->mutable_location()->set_record_seq(record->seq.load());
  info->add_nodes(uuid_text_);
}

// In slices: who puts meanwhile must not wait for a whole page. Names that come or go between two slices may or may
// not be in the page, as between two pages.
void Store::List(const v1::ListRequest& request, uint64_t byte_limit, v1::ListResponse* response) {
  ListSlice slice{.prefix = request.prefix(),
                  .after = request.after(),
                  .inclusive = request.after().empty() || request.after() < request.prefix(),
                  .with_reserved = request.prefix().starts_with(kReservedPrefix),
                  .names_only = request.names_only(),
                  .items_left = request.limit() == 0 ? 1000 : std::min<uint64_t>(request.limit(), 10000),
                  .bytes_left = byte_limit};
  if (slice.inclusive) slice.after = request.prefix();
  while (ListSome(&slice, response)) {
  }
}

bool Store::ListSome(ListSlice* slice, v1::ListResponse* response) {
  std::lock_guard lock(mutex_);
  auto it = slice->inclusive ? names_->LowerBound(slice->after) : names_->UpperBound(slice->after);
  slice->inclusive = false;
  for (int items = 0; it != names_->end(); ++it, ++items) {
    if (!slice->with_reserved && (it = names_->SkipReserved(it)) == names_->end()) return false;
    const RecordRef ref = names_->At(it);
    const std::string_view name = NameOf(slabs_->At(ref));
    if (!name.starts_with(slice->prefix)) return false;
    if (slabs_->At(ref)->flags & layout::kRecordFetched) continue;
    if (slice->items_left == 0 || slice->bytes_left == 0) {
      response->set_more(true);
      return false;
    }
    if (items >= kListSlice) return true;
    v1::TensorInfo* item = response->add_items();
    if (slice->names_only) {
      item->set_name(std::string(name));
    } else {
      FillInfo(ref, item);
    }
    slice->after.assign(name);
    --slice->items_left;
    slice->bytes_left -= std::min<uint64_t>(slice->bytes_left, slice->names_only ? name.size() + 8 : item->ByteSizeLong() + 8);
  }
  return false;
}

void Store::Events(const v1::WatchRequest& request, v1::WatchResponse* response) {
  std::lock_guard lock(mutex_);
  response->set_node_generation(generation_);
  const bool stale = request.node_generation() != 0 && request.node_generation() != generation_;
  uint64_t after = request.after_sequence();
  if (stale || after > events_.last_sequence()) {
    after = events_.last_sequence();
    response->add_events()->set_kind(v1::Event::RESYNC);
  } else if (request.from_start()) {
    after = events_.first_sequence() - 1;
  } else if (request.node_generation() == 0 && after == 0) {
    after = events_.last_sequence();
  }
  uint64_t next = after;
  bool lost = false;
  const size_t limit = request.limit() == 0 ? 256 : std::min<uint32_t>(request.limit(), 1024);
  for (const LoggedEvent* logged : events_.After(after, request.prefix(), request.tensors_only(), request.of_homes(), limit, &next, &lost)) {
    v1::Event* event = response->add_events();
    event->set_kind(logged->kind);
    event->set_sequence(logged->sequence);
    event->set_time_ns(logged->time_ns);
    if (!logged->of_tensor()) {
      event->set_text(std::string(logged->text()));
      continue;
    }
    v1::TensorInfo* info = event->mutable_info();
    if (logged->kind == v1::Event::PUT && logged->record != 0 && slabs_->At(logged->record)->seq.load() == logged->record_seq) {
      FillInfo(logged->record, info);  // still the same: everything that there is to tell
      continue;
    }
    info->set_name(std::string(logged->name()));
    info->mutable_version()->set_number(logged->version);
    info->set_dtype(logged->dtype);
    const Shape shape = logged->shape();
    for (const int64_t dim : shape.dims()) info->add_shape(dim);
    info->set_nbytes(logged->nbytes);
  }
  if (lost) response->add_events()->set_kind(v1::Event::RESYNC);
  response->set_next_sequence(next);
}

uint64_t Store::last_event() const {
  std::lock_guard lock(mutex_);
  return events_.last_sequence();
}

void Store::LogNameEvent(v1::Event::Kind kind, uint64_t time_ns, const v1::TensorInfo& info, bool elsewhere) {
  std::lock_guard lock(mutex_);
  events_.Append(kind, time_ns, info, elsewhere);
  Changed(kind == v1::Event::PUT ? index_->Hash(info.name()) : 0);
}

void Store::LogEvent(v1::Event::Kind kind, std::string_view text) {
  std::lock_guard lock(mutex_);
  LogLocked(kind, text);
}

void Store::LogLocked(v1::Event::Kind kind, std::string_view text) {
  events_.Append(kind, absl::GetCurrentTimeNanos(), text);
  Changed();
}

void Store::WaitForChange(uint64_t epoch, absl::Duration longest) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoNanoseconds(std::min(longest, absl::Hours(1))), [&] { return change_epoch_.load() != epoch; });
}

void Store::Df(v1::DfResponse* df) {
  std::lock_guard lock(mutex_);
  if (!retired_.empty()) Reclaim();
  df->set_memory_bytes(limits_.memory_bytes);
  df->set_segment_bytes(blocks_.segment_bytes());
  df->set_tensor_bytes(tensor_bytes_);
  df->set_block_bytes(blocks_.block_bytes());
  df->set_draft_bytes(draft_bytes_);
  df->set_drafts(drafts_);
  df->set_withheld(withheld_);
  df->set_quarantined(quarantined_);
  df->set_withheld_bytes(withheld_bytes_);
  df->set_max_tensors(limits_.max_tensors);
  df->set_max_pins(limits_.max_pins);
  df->set_damaged(damaged_);
  df->set_damaged_bytes(damaged_bytes_);
  df->set_held(directory_->count());
  df->set_held_bytes(directory_->bytes());
  df->set_retired_bytes(retired_.bytes());
  df->set_retired(retired_.count());
  df->set_tensors(names_->size());
  df->set_cache_bytes(cache_bytes_);
  df->set_sessions(sessions_.size());
  uint64_t pins = 0;
  for (const auto& [id, session] : sessions_) pins += session->CountPins();
  for (const auto& [word, count] : held_) pins += count;
  df->set_pins(pins);
  for (const auto& [id, data] : blocks_.segments()) {
    if (data->arena) {
      df->set_arenas(df->arenas() + 1);
      df->set_arena_bytes(df->arena_bytes() + data->shared.bytes);
    } else {
      df->set_extents(df->extents() + 1);
      df->set_extent_bytes(df->extent_bytes() + data->shared.bytes);
    }
  }
  df->set_catalog_bytes(slabs_->chunk_bytes() + index_->bytes() + header_bytes_);
  df->set_leaving_bytes(blocks_.leaving_bytes());
  df->set_channels(channels_.count);
  df->set_channel_bytes(channels_.bytes);
  df->set_regions(regions_.count);
  df->set_region_bytes(regions_.bytes);
  df->set_page_kind(page_kind_);
  df->set_puts(puts_);
  df->set_deletes(deletes_);
  df->set_evictions(evictions_);
  df->set_expirations(expirations_);
  df->set_adoptions(adoptions_);
  df->set_checksum_errors(checksum_errors_);
  if (spill_ != nullptr) {
    df->set_spill_limit_bytes(spill_->limit_bytes);
    df->set_spilled(spill_->count);
    df->set_spilled_bytes(spill_->bytes);
    df->set_spills(spill_->spills);
    df->set_spill_ins(spill_->spill_ins);
  }
  df->set_started_ns(started_ns_);
  df->set_generation(generation_);
}

void Store::ListSessions(v1::SessionsResponse* response) {
  std::lock_guard lock(mutex_);
  for (const auto& [id, session] : sessions_) {
    v1::SessionInfo* info = response->add_sessions();
    info->set_id(id);
    info->set_pid(session->peer.pid);
    info->set_uid(session->peer.uid);
    info->set_label(std::string(session->peer.label, strnlen(session->peer.label, sizeof(session->peer.label))));
    info->set_pins(session->CountPins());
    info->set_drafts(session->drafts.size());
    info->set_extent_bytes(blocks_.ExtentBytesOf(id));
    info->set_opened_ns(session->opened_ns);
    info->set_requests(session->requests.load());
    absl::flat_hash_set<uint64_t> pinned;
    session->ForEachPin([&](uint64_t pin) { pinned.insert(pin); });
    uint64_t bytes = 0;
    for (const RetiredRecords::Entry& entry : retired_.entries()) {
      if (pinned.contains(layout::PinWord(entry.record, entry.live_seq))) bytes += entry.nbytes;
    }
    info->set_pinned_retired_bytes(bytes);
  }
}

void Store::ListPins(const v1::PinsRequest& request, v1::PinsResponse* response) {
  const uint32_t limit = request.limit() == 0 ? 1000 : request.limit();
  std::lock_guard lock(mutex_);
  for (const auto& [id, session] : sessions_) {
    std::map<uint64_t, uint32_t> counts;
    session->ForEachPin([&](uint64_t pin) { ++counts[pin]; });
    for (const auto& [word, count] : counts) {
      const RecordRef ref = static_cast<RecordRef>(word >> 32);
      if (!slabs_->IsSlot(ref)) continue;  // the client's table is its own; nonsense in it harms nobody
      const Record* record = slabs_->At(ref);
      const uint64_t seq = record->seq.load();
      const bool live = static_cast<uint32_t>(seq) == static_cast<uint32_t>(word);
      const bool retired = static_cast<uint32_t>(seq) == static_cast<uint32_t>(word) + 1;
      if ((!live && !retired) || !(word & 1)) continue;
      if (!NameOf(record).starts_with(request.prefix())) continue;
      if (response->pins_size() == static_cast<int>(limit)) return;
      v1::PinInfo* pin = response->add_pins();
      pin->set_session(id);
      pin->set_name(std::string(NameOf(record)));
      pin->mutable_version()->set_term(record->version_term);
      pin->mutable_version()->set_number(record->version_number);
      pin->set_nbytes(record->nbytes);
      pin->set_count(count);
      pin->set_retired(retired);
    }
  }
}

std::vector<std::shared_ptr<Session>> Store::SessionList() const {
  std::vector<std::shared_ptr<Session>> list;
  list.reserve(sessions_.size());
  for (const auto& [id, session] : sessions_) list.push_back(session);
  return list;
}

std::vector<std::shared_ptr<Session>> Store::Sessions() const {
  std::lock_guard lock(mutex_);
  return SessionList();
}

std::string Store::page_kind() const {
  std::lock_guard lock(mutex_);
  return page_kind_;
}

UniqueFd Store::HeaderDescriptor() const {
  SharedSegment info;
  return shared_.Descriptor(header_segment_, &info);
}

}  // namespace penstock::server
