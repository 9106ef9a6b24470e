#include "server/remote/remote_gets.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "proto/errors.h"
#include "proto/layout/metadata_codec.h"
#include "proto/strcat.h"
#include "server/cluster/cluster_names.h"
#include "server/store/record_info.h"
#include "server/remote/each_at_once.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr int kTries = 10;  // a name that is overwritten all the time, or whose holders come and go
constexpr absl::Duration kBetweenTries = absl::Milliseconds(10);

absl::StatusOr<CreateSpec> SpecOf(const v1::TensorInfo& info, std::string* metadata) {
  const absl::StatusOr<Shape> shape = Shape::Create(absl::MakeConstSpan(info.shape().data(), static_cast<size_t>(info.shape_size())));
  if (!shape.ok()) return shape.status();
  *metadata = layout::EncodeMetadata({info.metadata().begin(), info.metadata().end()});
  return CreateSpec{.name = info.name(), .dtype = static_cast<DType>(info.dtype()), .shape = *shape, .nbytes = info.nbytes(),
                    .version = info.version().number(), .keep = false, .metadata = *metadata, .fetched = true, .created_ns = info.created_ns(), .version_term = static_cast<uint32_t>(info.version().term()),
                    .crc32c = info.has_crc32c() ? std::optional(info.crc32c()) : std::nullopt};
}

// The version's number alone is not enough: a home that has lost its memory, or another home, begins with 1 again.
bool IsOf(const absl::StatusOr<Published>& copy, const v1::TensorInfo& original) {
  return copy.ok() && !copy->spilled && copy->version_number == original.version().number() && copy->created_ns == original.created_ns();
}

}  // namespace

void RemoteGets::Get(std::vector<Item> items) {
  std::vector<Asked> asked;
  for (Item& item : items) asked.push_back({.item = std::move(item)});
  GetAll(std::move(asked));
}

void RemoteGets::GetAll(std::vector<Asked> asked) {
  std::vector<Asked> missing;
  for (Asked& one : asked) {
    one.here = store_->WhileReturning([&] { return store_->LookupResident(one.item.name, one.item.version); });
    if (one.here.ok() && (!one.here->fetched || one.here->leased || one.item.version != 0)) {
      jobs_->Finish(one.item.key, {.status = absl::OkStatus(), .published = *one.here});
    } else if (!one.here.ok() && !absl::IsNotFound(one.here.status())) {
      jobs_->Finish(one.item.key, {.status = one.here.status(), .published = {}});
    } else {
      missing.push_back(std::move(one));
    }
  }
  if (missing.empty()) return;
  Locate(&missing);
  std::vector<Asked> found;
  for (Asked& one : missing) {
    if (one.located) {
      found.push_back(std::move(one));
    } else {
      if (absl::IsNotFound(one.status) && one.item.version == 0) store_->DropCopy(one.item.name);
      Answer(one, one.status);
    }
  }
  // A large one holds up nobody else.
  std::vector<Asked> small;
  for (Asked& one : found) {
    const bool large = one.found.info.nbytes() >= kLargeBytes && !one.found.unchanged;
    if (!large || found.size() == 1) {
      small.push_back(std::move(one));
    } else {
      const auto alone = std::make_shared<Asked>(std::move(one));
      jobs_->Run([this, alone] {
        std::vector<Asked> only;
        only.push_back(std::move(*alone));
        Fetch(std::move(only));
      });
    }
  }
  if (!small.empty()) Fetch(std::move(small));
}

// At whoever has it as its own. NOT_FOUND is only said when everybody has said so.
void RemoteGets::Locate(std::vector<Asked>* asked) {
  if (cluster_.directory != nullptr) return LocateByDirectory(asked);
  std::vector<std::string_view> names;
  for (Asked& one : *asked) {
    one.status = absl::NotFoundError(StrCat("'", one.item.name, "': no such tensor, on none of ", homes_->node_count(), " nodes"));
    names.push_back(one.item.name);
  }
  homes_->Find(names, [asked](const PeerRef& peer, absl::Span<const size_t> which) {
    std::vector<Asked*> these;
    for (const size_t i : which) these.push_back(&(*asked)[i]);
    return LocateAt(peer, these);
  });
}

// Whether each was found there.
std::vector<bool> RemoteGets::LocateAt(const PeerRef& peer, absl::Span<Asked* const> asked) {
  std::vector<PeerNode::Wanted> wanted;
  for (const Asked* one : asked) {
    wanted.push_back({.name = one->item.name, .version = one->item.version, .have_version = one->here.ok() ? one->here->version_number : 0,
                      .have_created_ns = one->here.ok() ? one->here->created_ns : 0, .lease = one->item.version == 0, .op = one->place.op});
  }
  std::vector<absl::StatusOr<PeerNode::Found>> found = peer->Locate(wanted);
  std::vector<bool> settled;
  for (size_t i = 0; i < asked.size(); ++i) {
    settled.push_back(found[i].ok());
    if (found[i].ok()) {
      asked[i]->peer = peer;
      asked[i]->located = true;
      asked[i]->found = *std::move(found[i]);
      if (asked[i]->place.op.session != 0) SetVersion(asked[i]->place.version, &asked[i]->found.info);  // the holder may not know it yet
    } else if (!absl::IsNotFound(found[i].status())) {
      asked[i]->status = found[i].status();
    }
  }
  return settled;
}

// ---- with a directory ----

void RemoteGets::LocateByDirectory(std::vector<Asked>* asked) {
  std::vector<std::string> names;
  for (const Asked& one : *asked) names.push_back(one.item.name);
  const absl::Time at = MonotonicNow();
  auto looked = cluster_.directory->LookupNow(names, /*lease=*/true, at + ClusterNames::kPatience);
  std::vector<Asked*> elsewhere;
  for (size_t i = 0; i < asked->size(); ++i) {
    Asked& one = (*asked)[i];
    one.status = looked ? StatusOf(one.item.name, one.item.version, looked->results[i], *cluster_.directory) : NotYet(StrCat("'", one.item.name, "'"));
    if (!one.status.ok()) continue;
    one.place = std::move(looked->results[i]);
    one.asked_at = at;
    if (one.item.version == 0) one.lease_until = looked->lease_until;
    if (!LocateHere(&one)) elsewhere.push_back(&one);
  }
  LocateAtHolders(std::move(elsewhere));
}

// Whether this node has it, or nothing more is to be found out.
bool RemoteGets::LocateHere(Asked* one) {
  absl::StatusOr<v1::TensorInfo> info = TensorInfoOf(one->item.name, one->place.version, one->place.info);
  if (!info.ok()) {
    one->status = info.status();
    return true;
  }
  one->found.info = *std::move(info);
  const auto& holders = one->place.holders;
  if (std::find(holders.begin(), holders.end(), cluster_.self) != holders.end()) {
    one->own = true;
    one->here = AwaitOwn(one->item.name, one->place.op);
    one->status = one->here.status();
    one->own = !absl::IsDataLoss(one->status) || holders.size() == 1;  // its spill file is damaged: others have it
  }
  one->located = one->here.ok() && (one->own || IsOf(one->here, one->found.info));
  one->found.unchanged = one->located;
  return one->own || one->located;
}

// A home may know of the commit before the news is here.
absl::StatusOr<Published> RemoteGets::AwaitOwn(const std::string& name, directory::OpId op) {
  const absl::Time end = MonotonicNow() + absl::Seconds(1);
  while (true) {
    const uint64_t epoch = store_->change_epoch();
    const std::optional<Published> own = store_->PublishedByOp(name, op);
    if (own && !own->spilled) return *own;
    if (own) {
      const absl::StatusOr<Store::HeldTensor> back = store_->WhileReturning([&] { return store_->HoldByOp(name, op); });
      if (!back.ok()) return back.status();
      continue;
    }
    if (MonotonicNow() >= end) return absl::UnavailableError(StrCat("'", name, "': this node's copy is not settled yet; try again"));
    store_->WaitForChange(epoch, absl::Milliseconds(20));
  }
}

// Each at the first of its holders that gives it; all holders of a round at the same time.
void RemoteGets::LocateAtHolders(std::vector<Asked*> open) {
  for (size_t round = 0; !open.empty(); ++round) {
    std::map<PeerRef, std::vector<Asked*>> at;
    for (Asked* one : open) {
      const auto& holders = one->place.holders;
      if (round == 0) one->status = absl::UnavailableError(StrCat("'", one->item.name, "': none of the nodes that hold it answers; try again"));
      const PeerRef peer = round < holders.size() ? cluster_.peer_of(holders[(round + one->tries) % holders.size()]) : nullptr;
      if (peer != nullptr) at[peer].push_back(one);
    }
    EachAtOnce(at, [](const PeerRef& peer, const std::vector<Asked*>& these) { (void)LocateAt(peer, these); });
    std::erase_if(open, [&](const Asked* one) { return one->located || round + 1 >= one->place.holders.size(); });
  }
}

void RemoteGets::TakeLease(const Asked& asked, const Published& copy) {
  if (cluster_.directory != nullptr) {
    if (asked.lease_until > MonotonicNow()) cluster_.leases->Take(asked.item.name, copy, asked.asked_at, asked.lease_until - asked.asked_at + HeldLeases::kMargin);
  } else if (asked.peer != nullptr) {
    asked.peer->TakeLease(asked.found, copy);
  }
}

// All of them were found. This thread makes what nobody makes yet; what others make it waits for only when that is done, so
// two that wait for each other's cannot be.
void RemoteGets::Fetch(std::vector<Asked> found) {
  std::vector<Making> making;
  std::vector<std::pair<const Asked*, std::shared_ptr<Copying>>> waiting;
  for (const Asked& one : found) {
    if (one.own || IsOf(one.here, one.found.info)) {
      Answer(one, one.here);
      continue;
    }
    const What what{one.item.name, one.found.info.version().number(), one.found.info.created_ns()};
    bool mine = false;
    std::shared_ptr<Copying> copying = Join(what, &mine);
    if (mine) making.push_back({.what = what, .copying = copying, .asked = &one});
    waiting.emplace_back(&one, std::move(copying));
  }
  Make(&making);
  for (const auto& each : waiting) {
    const Copying& copying = *each.second;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return copying.done; });
    }
    Answer(*each.first, copying.result);
  }
  PENSTOCK_FAULT_POINT("node.remote.answered");
  Release(found);
}

std::shared_ptr<RemoteGets::Copying> RemoteGets::Join(const What& what, bool* mine) {
  std::lock_guard lock(mutex_);
  std::shared_ptr<Copying>& slot = copying_[what];
  *mine = slot == nullptr;
  if (*mine) slot = std::make_shared<Copying>();
  return slot;
}

void RemoteGets::Make(std::vector<Making>* making) {
  if (making->empty()) return;
  std::map<PeerRef, std::vector<Making*>> reading;
  std::vector<Making*> large;
  const absl::Time patience = MonotonicNow() + Store::kMemoryWait;
  for (Making& one : *making) {
    const v1::TensorInfo& original = one.asked->found.info;
    one.result = store_->Lookup(original.name(), original.version().number());
    if (IsOf(one.result, original)) continue;  // somebody has just been done
    std::string metadata;
    const absl::StatusOr<CreateSpec> spec = SpecOf(original, &metadata);
    const absl::StatusOr<Placed> placed = spec.ok() ? writer_.Reserve(*spec, patience - MonotonicNow()) : spec.status();
    if (!placed.ok()) {
      one.result = placed.status();
      continue;
    }
    one.placed = *placed;
    if (large_ != nullptr && original.nbytes() >= LargeReads::kChainBytes) {
      large.push_back(&one);
    } else {
      reading[one.asked->peer].push_back(&one);
    }
  }
  EachAtOnce(reading, [this](const PeerRef&, const std::vector<Making*>& part) { Read(part); });
  for (Making* one : large) ReadLarge(one);
  {
    std::lock_guard lock(mutex_);
    for (Making& one : *making) {
      // This node has got a tensor of that name itself meanwhile: a replica, or what its clients put. It is looked up again.
      if (absl::IsAborted(one.result.status())) one.result = absl::UnavailableError(one.result.status().message());
      one.copying->result = one.result;
      one.copying->done = true;
      copying_.erase(one.what);
    }
  }
  changed_.notify_all();
}

// Of one peer.
void RemoteGets::Read(std::vector<Making*> making) {
  std::vector<PeerNode::Reading> readings;
  for (const Making* one : making) {
    readings.push_back({.found = &one->asked->found, .to = one->placed.block.address, .rdma_only = one->asked->item.require_rdma});
  }
  making[0]->asked->peer->Read(absl::MakeSpan(readings));
  PENSTOCK_FAULT_POINT("node.remote.read");
  for (size_t i = 0; i < making.size(); ++i) EndRead(making[i], readings[i].status);
}

void RemoteGets::EndRead(Making* one, const absl::Status& status) {
  if (!status.ok()) {
    writer_.Abort(one->placed);
    one->result = status;
    return;
  }
  one->result = writer_.Publish(one->placed);
  if (absl::IsDataLoss(one->result.status())) one->result = Damaged(*one->asked);
}

// On the way, or there: that node looks, and lets its copy go if that is damaged and others have it.
absl::Status RemoteGets::Damaged(const Asked& asked) {
  const v1::TensorInfo& info = asked.found.info;
  const std::string from = StrCat("node ", asked.peer->address());
  store_->NoteDamaged(info.name(), from);
  const std::vector<PeerNode::Wanted> wanted = {{.name = info.name(), .version = asked.item.version, .op = asked.place.op, .verify = true}};
  const std::vector<absl::StatusOr<PeerNode::Found>> found = asked.peer->Locate(wanted);
  if (absl::IsDataLoss(found[0].status())) return found[0].status();
  if (found[0].ok()) {
    const PeerNode::Found* const released[] = {&*found[0]};
    asked.peer->Release(released);
  }
  return absl::DataLossError(StrCat("'", info.name(), "', from ", from, ": its bytes do not have the CRC32C that they were put with"));
}

// Others may read it here meanwhile, and what they hold of it stays for them, whatever its end is.
void RemoteGets::ReadLarge(Making* one) {
  absl::StatusOr<Store::HeldTensor> held = writer_.Hold(one->placed);
  if (!held.ok()) return EndRead(one, held.status());
  const GrowingCopies::Entry growing = growing_->Begin(one->what, *std::move(held));
  const Asked& asked = *one->asked;
  LargeReads::Wanted wanted{.holder = asked.peer.get(), .found = &asked.found, .more_holders = {}, .op = asked.place.op, .rdma_only = asked.item.require_rdma};
  for (const directory::NodeId node : asked.place.holders) {
    if (PeerRef peer = cluster_.peer_of(node)) wanted.more_holders.push_back(std::move(peer));
  }
  if (wanted.more_holders.size() == 1 && wanted.more_holders[0] == asked.peer) wanted.more_holders.clear();
  const absl::Status status = large_->Read(wanted, growing.copy());
  PENSTOCK_FAULT_POINT("node.remote.read");
  EndRead(one, status);
}

void RemoteGets::Answer(const Asked& asked, const absl::StatusOr<Published>& got) {
  // Whose process was replaced in the middle is asked again; who is gone says so at once.
  const bool gone = absl::IsUnavailable(got.status()) || (asked.located && absl::IsNotFound(got.status()));
  const bool damaged = absl::IsDataLoss(got.status()) && asked.located;  // on the way, or there; the next holder's turn
  const int most = cluster_.directory == nullptr ? 1 : damaged ? static_cast<int>(asked.place.holders.size()) : kTries;
  if ((gone || damaged) && !IsTransportError(got.status()) && asked.tries < most) {
    jobs_->Run([this, item = asked.item, tries = asked.tries] {
      absl::SleepFor(tries * kBetweenTries);
      std::vector<Asked> again;
      again.push_back({.item = item, .tries = tries + 1});
      GetAll(std::move(again));
    });
    return;
  }
  if (got.ok() && got->fetched) TakeLease(asked, *got);
  jobs_->Finish(asked.item.key, {.status = got.status(), .published = got.ok() ? *got : Published{}});
}

void RemoteGets::Release(const std::vector<Asked>& found) {
  std::map<PeerRef, std::vector<const PeerNode::Found*>> by_peer;
  for (const Asked& one : found) {
    if (one.peer != nullptr) by_peer[one.peer].push_back(&one.found);
  }
  for (const auto& [peer, all] : by_peer) peer->Release(all);
}

}  // namespace penstock::server
