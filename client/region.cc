// Regions: opening, holding, closing.
#include <penstock/client.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "client/connection.h"
#include "client/session/fork.h"
#include "client/session/mutable_mapping.h"
#include "client/session/region_lock.h"
#include "proto/layout/region_layout.h"
#include "proto/strcat.h"

namespace penstock {

using client::Deadline;
using client::MutableMapping;
using client::RegionLock;
using layout::HoldState;
using layout::MutableKind;

namespace client {

// What a Region and the threads inside its calls share: the mapping of this process.
class RegionShare {
 public:
  RegionShare(std::shared_ptr<Connection> connection, std::string name, std::shared_ptr<MutableMapping> mapping)
      : connection_(std::move(connection)), name_(std::move(name)), mapping_(std::move(mapping)) {
    ForkList::AddMutex(&mutex_);
  }
  ~RegionShare() { ForkList::RemoveMutex(&mutex_); }

  Connection* connection() const { return connection_.get(); }
  MutableMapping::Request Request() const { return {.kind = MutableKind::kRegion, .name = name_, .shape = {}}; }

  // In a forked child: opened anew, by a session of the child's.
  absl::StatusOr<std::shared_ptr<MutableMapping>> Get() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (mapping_ == nullptr) return absl::FailedPreconditionError(StrCat("region \"", name_, "\": it was closed"));
    if (!mapping_->OfThisProcess()) {
      absl::StatusOr<std::shared_ptr<MutableMapping>> opened = MutableMapping::Open(connection_.get(), Request(), absl::ZeroDuration());
      if (!opened.ok()) return opened;
      if ((*opened)->info().segment != mapping_->info().segment) {
        return absl::NotFoundError(StrCat("region \"", name_, "\": it was deleted; another one has its name"));
      }
      of_parent_ = std::exchange(mapping_, *std::move(opened));
    }
    return mapping_;
  }
  std::shared_ptr<MutableMapping> Present() {
    std::lock_guard<std::mutex> lock(mutex_);
    return mapping_;
  }
  void Close() {
    std::lock_guard<std::mutex> lock(mutex_);
    mapping_.reset();
    of_parent_.reset();
  }

 private:
  const std::shared_ptr<Connection> connection_;  // the Client's too
  const std::string name_;
  std::mutex mutex_;
  std::shared_ptr<MutableMapping> mapping_;    // shared with holds and arrays
  std::shared_ptr<MutableMapping> of_parent_;  // arrays of before the fork may show it
};

namespace {
layout::RegionHeader* HeaderOf(const MutableMapping& mapping) { return reinterpret_cast<layout::RegionHeader*>(mapping.memory()); }
}  // namespace

}  // namespace client

absl::StatusOr<Region> Client::OpenRegion(std::string_view name, const RegionOptions& options) {
  if (options.exclusive && options.nbytes == 0) return absl::InvalidArgumentError("nbytes: a region that is made needs a size");
  const MutableMapping::Request request{.kind = MutableKind::kRegion, .create = options.nbytes != 0,
                                        .exclusive = options.exclusive, .name = name, .nbytes = options.nbytes, .shape = {}};
  absl::StatusOr<std::shared_ptr<MutableMapping>> opened = MutableMapping::Open(connection_.get(), request, options.timeout);
  if (!opened.ok()) return opened.status();
  Region region;
  region.name_ = std::string(name);
  region.nbytes_ = (*opened)->info().nbytes;
  region.created_ = (*opened)->info().made != 0;
  region.share_ = std::make_shared<client::RegionShare>(connection_, region.name_, *std::move(opened));
  return region;
}

absl::StatusOr<std::shared_ptr<MutableMapping>> Region::Mapping() const {
  absl::StatusOr<std::shared_ptr<MutableMapping>> mapping = share_->Get();
  if (!mapping.ok()) return mapping;
  if (absl::Status s = (*mapping)->CheckSession(); !s.ok()) return s;
  return mapping;
}

std::byte* Region::data() const {
  const absl::StatusOr<std::shared_ptr<MutableMapping>> mapping = share_->Get();
  return mapping.ok() ? reinterpret_cast<std::byte*>((*mapping)->memory()) + layout::kRegionDataOffset : nullptr;
}

std::shared_ptr<const void> Region::Share() const {
  absl::StatusOr<std::shared_ptr<MutableMapping>> mapping = share_->Get();
  return mapping.ok() ? *std::move(mapping) : nullptr;
}

bool Region::closed() const { return share_->Present() == nullptr; }

bool Region::deleted() const {
  const std::shared_ptr<MutableMapping> mapping = share_->Present();
  return mapping != nullptr && client::HeaderOf(*mapping)->deleted.load() != 0;
}

absl::StatusOr<RegionHold> Region::Read(const HoldOptions& options) const { return Hold(options, /*write=*/false); }
absl::StatusOr<RegionHold> Region::Write(const HoldOptions& options) const { return Hold(options, /*write=*/true); }

absl::StatusOr<RegionHold> Region::Hold(const HoldOptions& options, bool write) const {
  const absl::StatusOr<std::shared_ptr<MutableMapping>> mapping = Mapping();
  if (!mapping.ok()) return mapping.status();
  const RegionLock::Asker asker{.session = (*mapping)->session()->id(),
                                .owner = options.owner != 0 ? options.owner : static_cast<uint64_t>(gettid())};
  const auto look_around = [&] {
    if (options.cancelled && options.cancelled()) return absl::CancelledError("region: the wait was cancelled");
    return (*mapping)->CheckSession();
  };
  RegionLock lock(client::HeaderOf(**mapping), &(*mapping)->turns());
  const Deadline deadline = Deadline::After(options.timeout);
  const absl::StatusOr<uint32_t> slot = write ? lock.Write(asker, deadline, look_around) : lock.Read(asker, deadline, look_around);
  if (!slot.ok()) return absl::Status(slot.status().code(), StrCat("\"", name_, "\": ", slot.status().message()));
  return RegionHold(*mapping, *slot, write);
}

RegionHold::RegionHold(std::shared_ptr<MutableMapping> mapping, uint32_t slot, bool writing)
    : mapping_(std::move(mapping)),
      slot_(slot),
      writing_(writing),
      abandoned_(client::HeaderOf(*mapping_)->abandoned.load() != 0) {}

RegionHold& RegionHold::operator=(RegionHold&& other) noexcept {
  if (this == &other) return *this;
  if (held()) Release().IgnoreError();
  mapping_ = std::move(other.mapping_);
  slot_ = other.slot_;
  writing_ = other.writing_;
  abandoned_ = other.abandoned_;
  return *this;
}

absl::Status RegionHold::Release() {
  const std::shared_ptr<MutableMapping> mapping = std::move(mapping_);
  if (mapping == nullptr) return absl::FailedPreconditionError("release: the hold was released before");
  if (!mapping->OfThisProcess()) return absl::FailedPreconditionError("release: the hold belongs to the process that forked");
  if (mapping->session()->ended()) return absl::OkStatus();  // the node has taken it
  RegionLock lock(client::HeaderOf(*mapping), &mapping->turns());
  writing_ ? lock.EndWrite(slot_) : lock.EndRead(slot_);
  return absl::OkStatus();
}

RegionState Region::state() const {
  RegionState state;
  const std::shared_ptr<MutableMapping> mapping = share_->Present();
  if (mapping == nullptr) return state;
  const layout::RegionHeader* header = client::HeaderOf(*mapping);
  std::vector<uint64_t> writers;
  for (const layout::HoldSlot& slot : header->slots) {
    const HoldState hold = layout::StateOfHold(slot.word.load());
    if (hold == HoldState::kReading) state.owners.push_back(slot.session.load());
    if (hold == HoldState::kWriting) writers.push_back(slot.session.load());
    if (hold == HoldState::kWantRead || hold == HoldState::kWantWrite) ++state.waiting;
  }
  if (!writers.empty()) state.owners = writers;
  state.mode = !writers.empty() ? RegionState::Mode::kWriting : !state.owners.empty() ? RegionState::Mode::kReading : RegionState::Mode::kIdle;
  state.abandoned = header->abandoned.load() != 0;
  return state;
}

std::string RegionState::ToString() const {
  if (mode == Mode::kIdle) return "idle";
  return mode == Mode::kWriting ? "writing" : StrCat("reading by ", owners.size());
}

absl::StatusOr<bool> Region::Delete() const {
  const absl::StatusOr<std::shared_ptr<MutableMapping>> mapping = Mapping();
  if (!mapping.ok()) return mapping.status();
  if (deleted()) return false;
  return MutableMapping::Delete(share_->connection(), share_->Request());
}

void Region::Close() { share_->Close(); }

}  // namespace penstock
