#include "server/cluster/copy_maker.h"

#include <algorithm>
#include <utility>

#include "proto/strcat.h"
#include "server/store/record_info.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

void CopyMaker::Start(const directory::Pull& pull) {
  Line* const line = pull.version == directory::Version{} ? &hurried_ : &unhurried_;  // its put waits for it
  const directory::NodeId from = pull.from.empty() ? 0 : pull.from.front();
  {
    std::lock_guard lock(mutex_);
    Waiting& waiting = line->waiting[from];
    waiting.pulls.push_back(pull);
    if (waiting.jobs >= kJobsEach) return;
    ++waiting.jobs;
  }
  line->jobs->Run([this, line, from] { Work(line, from); });
}

void CopyMaker::Work(Line* line, directory::NodeId from) {
  while (true) {
    const std::vector<directory::Pull> pulls = Next(line, from);
    if (pulls.empty()) return;
    uint64_t bytes = 0;
    for (const directory::Pull& pull : pulls) bytes += pull.info.nbytes;
    if (line->paced && !AwaitTurn(bytes)) return;
    Run(pulls);
  }
}

// None: this job is over.
std::vector<directory::Pull> CopyMaker::Next(Line* line, directory::NodeId from) {
  std::lock_guard lock(mutex_);
  const auto it = line->waiting.find(from);
  std::deque<directory::Pull>& waiting = it->second.pulls;
  std::vector<directory::Pull> pulls;
  uint64_t bytes = 0;
  while (!waiting.empty() && pulls.size() < kTogether) {
    bytes += waiting.front().info.nbytes;
    if (!pulls.empty() && bytes > kTogetherBytes) break;
    pulls.push_back(std::move(waiting.front()));
    waiting.pop_front();
  }
  if (pulls.empty() && --it->second.jobs == 0) line->waiting.erase(it);
  return pulls;
}

void CopyMaker::Run(const std::vector<directory::Pull>& pulls) {
  Pinned pinned;
  const std::vector<absl::Status> made = MakeTogether(pulls, &pinned);
  PENSTOCK_FAULT_POINT("node.replica.made");
  for (size_t i = 0; i < pulls.size(); ++i) {
    if (made[i].ok() && directory::UnpackReason(pulls[i].reason).kind == directory::ReasonKind::kRepair) {
      repaired_.fetch_add(1);
      repaired_bytes_.fetch_add(pulls[i].info.nbytes);
    }
    directory_->OnFetched(pulls[i].name, pulls[i].op, made[i].ok());
  }
}

bool CopyMaker::AwaitTurn(uint64_t bytes) {
  std::unique_lock lock(mutex_);
  const absl::Duration wait = rate_.Take(bytes, MonotonicNow());
  return !changed_.wait_for(lock, absl::ToChronoNanoseconds(wait), [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; });
}

void CopyMaker::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  unhurried_jobs_.Stop();
}

// All from the node that they have in common; what that one does not give, each from whoever gives it.
std::vector<absl::Status> CopyMaker::MakeTogether(const std::vector<directory::Pull>& pulls, Pinned* pinned) {
  std::vector<absl::Status> made(pulls.size(), absl::UnavailableError("nobody has it"));
  MakeOffered(pulls, &made);
  std::vector<size_t> missing;
  for (size_t i = 0; i < pulls.size(); ++i) {
    if (!made[i].ok()) missing.push_back(i);
  }
  const PeerRef peer = missing.size() > 1 ? peer_of_(pulls.front().from.front()) : nullptr;
  if (peer != nullptr) {
    std::vector<const directory::Pull*> all;
    for (const size_t i : missing) all.push_back(&pulls[i]);
    const std::vector<absl::Status> together = MakeFrom(peer, all, /*verify=*/false, pinned);
    for (size_t k = 0; k < missing.size(); ++k) made[missing[k]] = together[k];
  }
  for (const size_t i : missing) {
    if (!made[i].ok()) made[i] = Make(pulls[i], pinned);
  }
  return made;
}

// What its node offers is read without asking for it first.
void CopyMaker::MakeOffered(const std::vector<directory::Pull>& pulls, std::vector<absl::Status>* made) {
  std::vector<size_t> which;
  std::vector<Making> all;
  for (size_t i = 0; i < pulls.size(); ++i) {
    if (pulls[i].offer == 0 || pulls[i].from.empty()) continue;
    which.push_back(i);
    all.push_back({.pull = &pulls[i]});
  }
  const PeerRef peer = all.empty() ? nullptr : peer_of_(all.front().pull->from.front());
  if (peer == nullptr || peer->reads_by_rdma()) return;
  std::vector<PeerNode::OfferedReading> readings;
  for (Making& one : all) {
    Place(&one);
    if (one.status.ok()) readings.push_back({.offer = one.pull->offer, .to = {one.placed->block.address, one.pull->info.nbytes}});
  }
  if (!readings.empty()) peer->ReadOffered(absl::MakeSpan(readings));
  auto reading = readings.begin();
  for (Making& one : all) {
    if (one.status.ok()) one.status = (reading++)->status;
  }
  const std::vector<absl::Status> finished = Finish(all);
  for (size_t k = 0; k < which.size(); ++k) (*made)[which[k]] = finished[k];
}

// From the first that gives it.
absl::Status CopyMaker::Make(const directory::Pull& pull, Pinned* pinned) {
  absl::Status why = absl::UnavailableError("nobody has it");
  for (const directory::NodeId node : pull.from) {
    const PeerRef peer = peer_of_(node);
    if (peer == nullptr) continue;
    why = MakeFrom(peer, {&pull}, /*verify=*/false, pinned)[0];
    if (absl::IsDataLoss(why)) {
      store_->NoteDamaged(pull.name, StrCat("node ", peer->address()));
      why = MakeFrom(peer, {&pull}, /*verify=*/true, pinned)[0];
    }
    if (why.ok()) return why;
  }
  return why;
}

CopyMaker::Pinned::~Pinned() {
  for (const auto& [peer, found] : all_) {
    std::vector<const PeerNode::Found*> released;
    for (const PeerNode::Found& one : found) released.push_back(&one);
    peer->Release(released);
  }
}

// One result each. verify: what came before did not have its checksum. The peer looks at its copy, and lets it go if it is damaged.
std::vector<absl::Status> CopyMaker::MakeFrom(const PeerRef& peer, const std::vector<const directory::Pull*>& pulls, bool verify, Pinned* pinned) {
  std::vector<PeerNode::Wanted> wanted;
  for (const directory::Pull* pull : pulls) wanted.push_back({.name = pull->name, .op = pull->op, .verify = verify});
  std::vector<absl::StatusOr<PeerNode::Found>> found = peer->Locate(wanted);
  std::vector<Making> all;
  std::vector<PeerNode::Reading> readings;
  for (size_t i = 0; i < pulls.size(); ++i) {
    all.push_back({.pull = pulls[i]});
    all[i].status = found[i].status();
    if (!found[i].ok()) continue;
    Place(&all[i]);
    if (found[i]->info.nbytes() != pulls[i]->info.nbytes) {
      all[i].status = absl::InternalError(StrCat("'", pulls[i]->name, "': its home tells of ", pulls[i]->info.nbytes, " bytes, its holder of ", found[i]->info.nbytes()));
    }
    if (all[i].status.ok()) readings.push_back({.found = &*found[i], .to = all[i].placed->block.address});
  }
  if (!readings.empty()) peer->Read(absl::MakeSpan(readings));
  auto reading = readings.begin();
  for (Making& one : all) {
    if (one.status.ok()) one.status = (reading++)->status;
  }
  std::vector<PeerNode::Found> there;
  for (absl::StatusOr<PeerNode::Found>& one : found) {
    if (one.ok()) there.push_back(*std::move(one));
  }
  pinned->Add(peer, std::move(there));
  return Finish(all);
}

void CopyMaker::Place(Making* one) {
  absl::StatusOr<v1::RecordInfo> info = ParseRecordInfo(one->pull->info.info);
  const absl::StatusOr<CreateSpec> spec = info.ok() ? SpecOfRecord(one->pull->name, *info, &one->metadata) : info.status();
  if (spec.ok() && spec->nbytes != one->pull->info.nbytes) {
    one->status = absl::InternalError(StrCat("'", one->pull->name, "': its home tells of ", one->pull->info.nbytes, " bytes, and of a shape of ", spec->nbytes));
    return;
  }
  one->placed = spec.ok() ? writer_.Reserve(*spec, Store::kMemoryWait) : spec.status();
  one->status = one->placed.status();
  if (info.ok()) one->info = *std::move(info);
}

std::vector<absl::Status> CopyMaker::Finish(const std::vector<Making>& all) {
  PENSTOCK_FAULT_POINT("node.replica.read");
  std::vector<absl::Status> made;
  for (const Making& one : all) {
    made.push_back(one.status.ok() ? Prepare(one) : one.status);
    if (!made.back().ok() && one.placed.ok()) writer_.Abort(*one.placed);
  }
  return made;
}

absl::Status CopyMaker::Prepare(const Making& one) {
  if (absl::Status s = writer_.Take(*one.placed).status(); !s.ok()) return s;
  const absl::Status prepared = store_->Prepare(one.placed->record, {.op = one.pull->op, .prepared_in = std::max(one.pull->view, directory_->term()),
                                                                     .created_ns = one.info.created_ns(), .expires_ns = one.info.expires_ns()});
  if (!prepared.ok()) store_->DropTaken(one.placed->record);
  return absl::IsAlreadyExists(prepared) ? absl::OkStatus() : prepared;
}

}  // namespace penstock::server
