#include "server/remote/remote_store.h"

#include <algorithm>
#include <map>
#include <utility>

#include "proto/names.h"
#include "proto/strcat.h"
#include "proto/uuid_text.h"
#include "server/cluster/cluster_moves.h"
#include "server/membership/directory_view.h"
#include "server/remote/each_at_once.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kRenewEvery = absl::Seconds(1);
constexpr absl::Duration kMeetEvery = absl::Seconds(2);
constexpr size_t kGetBatch = 1024;
constexpr size_t kPutBatch = 128;

absl::StatusOr<std::unique_ptr<RdmaReader>> OpenRdma() {
#ifdef PENSTOCK_HAS_UCX
  return OpenRdmaReader();
#else
  return absl::NotFoundError("this build has no UCX");
#endif
}

}  // namespace

RemoteStore::RemoteStore(Store* store, LeaseRecall* recall, const RemoteStoreOptions& options)
    : store_(store), recall_(recall), require_rdma_(options.require_rdma), options_(options),
      homes_(&peers_, options.new_names_at_peers, UuidText(store->header()->node_uuid)),
      gets_(store, &homes_, &jobs_), puts_(store, recall, &homes_, &jobs_, options.require_rdma), reads_(store, &peers_, &homes_, options.require_rdma),
      measure_(store, &peers_) {
  if (options.peers.empty() && !options.in_cluster) return;
  absl::StatusOr<std::unique_ptr<RdmaReader>> rdma = absl::NotFoundError(options.why_no_rdma);
  if (options.may_use_rdma) rdma = OpenRdma();
  why_no_rdma_ = std::string(rdma.status().message());
  if (rdma.ok()) rdma_ = *std::move(rdma);
  std::vector<PeerRef> peers;
  for (const std::string& address : options.peers) peers.push_back(NewPeer(address));
  peers_.Set(std::move(peers));
  if (options.channels != nullptr) channels_ = std::make_unique<ChannelMirrors>(options.channels, &homes_, options.require_rdma);
  if (options.growing != nullptr) {
    gets_.UseChains(options.growing, {.self = store->uuid(), .peers = &peers_, .named = [this](const NodeUuid& node) {
                                        const std::string uuid = UuidText({reinterpret_cast<const char*>(node.data()), node.size()});
                                        return options_.in_cluster ? PeerNamed(uuid) : PeerMet(uuid);
                                      }});
  }
  renewing_ = std::thread([this] { RenewLoop(); });
}

PeerRef RemoteStore::NewPeer(const std::string& address) {
  return std::make_shared<PeerNode>(address, store_, options_.tls, PeerNode::Lanes{rdma_.get(), why_no_rdma_, options_.ucx_tcp});
}

void RemoteStore::UseDirectory(ClusterDirectory* directory, directory::NodeId self) {
  directory_ = directory;
  self_ = self;
  const auto peer_of = [this](directory::NodeId node) { return PeerOf(node); };
  cluster_puts_ = std::make_unique<ClusterPuts>(store_, directory, options_.offers);
  quarantine_ = std::make_unique<ClusterQuarantine>(store_, cluster_puts_.get());
  copies_ = std::make_unique<CopyMaker>(store_, directory, &jobs_, peer_of, options_.repair_bytes_per_second);
  gets_.UseDirectory({.directory = directory, .leases = &copy_leases_, .self = self, .peer_of = peer_of});
  events_ = std::make_unique<ClusterEvents>(store_, &peers_);
  reads_.FindPlacesBy([this](const std::string& name, uint64_t version) { return PlacesOf(name, version); });
  names_ = std::make_unique<ClusterNames>(store_, directory, &peers_, [this](directory::NodeId node) { return NodeName(node); });
}

PeerRef RemoteStore::PeerOf(directory::NodeId node) {
  std::lock_guard lock(mutex_);
  const auto it = by_node_.find(node);
  return it == by_node_.end() ? nullptr : it->second;
}

PeerRef RemoteStore::PeerNamed(const std::string& uuid) {
  std::lock_guard lock(mutex_);
  for (const auto& [node, peer] : by_node_) {
    if (const auto it = uuids_.find(node); it != uuids_.end() && it->second == uuid) return peer;
  }
  return nullptr;
}

// Of --peers: who has not been asked anything yet tells who it is now; those who do not answer cost that only now and then.
PeerRef RemoteStore::PeerMet(const std::string& uuid) {
  std::lock_guard one(meeting_);  // who comes meanwhile finds whom this one has met
  std::map<PeerRef, int> strangers;
  for (const PeerRef& peer : peers_.Now()) {
    if (peer->uuid() == uuid) return peer;
    if (peer->uuid().empty()) strangers[peer];
  }
  if (MonotonicNow() < met_at_ + kMeetEvery) return nullptr;
  met_at_ = MonotonicNow();
  EachAtOnce(strangers, [](const PeerRef& peer, int) { peer->Meet(); });
  for (const auto& [peer, unused] : strangers) {
    if (peer->uuid() == uuid) return peer;
  }
  return nullptr;
}

std::string RemoteStore::NodeName(directory::NodeId node) {
  if (node == self_) return UuidText(store_->header()->node_uuid);
  std::lock_guard lock(mutex_);
  const auto it = uuids_.find(node);
  return it == uuids_.end() ? StrCat("node ", node) : it->second;
}

ClientReads::Places RemoteStore::PlacesOf(const std::string& name, uint64_t version) {
  const auto looked = directory_->LookupNow({name}, /*lease=*/false, MonotonicNow() + ClusterNames::kPatience);
  ClientReads::Places places{.missing = looked ? StatusOf(name, version, looked->results[0], *directory_) : NotYet(StrCat("'", name, "'"))};
  if (!places.missing.ok()) return places;
  const directory::LookupResult& found = looked->results[0];
  places.op = found.op;
  places.version = found.version;
  places.missing = absl::UnavailableError(StrCat("'", name, "': none of the nodes that hold it answers; try again"));
  for (const directory::NodeId holder : found.holders) {
    if (holder == self_) places.here = true;
    if (PeerRef peer = PeerOf(holder)) places.peers.push_back(std::move(peer));
  }
  return places;
}

void RemoteStore::LetGo(const std::string& name, directory::OpId op, Store::Wish why) {
  if (why == Store::Wish::kEvict) return directory_->Evict(name, op);
  if (why == Store::Wish::kDamaged) return directory_->LeaveDamaged(name, op);
  const std::optional<Published> present = store_->PublishedByOp(name, op);
  if (present) names_->Delete(name, present->version_number, [](const absl::StatusOr<Published>&) {});  // if it fails, it is asked for again
}

void RemoteStore::SetMembers(const v1::View& view, std::string_view self) {
  std::map<std::string, PeerRef> known;  // by address
  for (const PeerRef& peer : peers_.Now()) known[peer->address()] = peer;
  std::vector<PeerRef> next;
  absl::flat_hash_map<directory::NodeId, PeerRef> by_node;
  const auto add = [&](const v1::Member& member, std::string why_absent) {
    if (member.id() == self) return;
    const auto it = known.find(member.address());
    next.push_back(it != known.end() ? it->second : NewPeer(member.address()));
    if (it != known.end()) known.erase(it);
    if (why_absent.empty()) by_node[DirectoryIdOf(member)] = next.back();
    next.back()->SetAbsent(std::move(why_absent));
  };
  for (const v1::Member& member : view.members()) add(member, "");
  for (const v1::View::Absent& absent : view.absent()) {
    const std::string id = UuidText(absent.member().id());
    add(absent.member(), StrCat("node ", id, " at ", absent.member().address(), " is absent, and may have it: it comes back, or `penstock nodes --forget ", id,
                                "` gives up what it had"));
  }
  peers_.Set(std::move(next));
  {
    std::lock_guard lock(mutex_);
    by_node_.swap(by_node);
    for (const v1::Member& member : view.members()) uuids_[DirectoryIdOf(member)] = UuidText(member.id());
    for (const v1::View::Absent& absent : view.absent()) uuids_[DirectoryIdOf(absent.member())] = UuidText(absent.member().id());
  }
  for (const auto& [address, peer] : known) peer->Stop();
}

absl::Status RemoteStore::ForgetNode(const v1::ForgetNodeRequest& request, v1::ForgetNodeResponse* response) {
  if (!forget_) return absl::FailedPreconditionError("node: this node is in no cluster (--etcd)");
  const absl::StatusOr<std::string> id = UuidOf(request.node_uuid());
  if (!id.ok()) return id.status();
  const absl::StatusOr<uint64_t> term = forget_(*id);
  if (!term.ok()) return term.status();
  response->set_term(*term);
  return absl::OkStatus();
}

absl::Status RemoteStore::DrainNode(const v1::DrainNodeRequest& request, v1::DrainNodeResponse* response) {
  if (!drain_) return absl::FailedPreconditionError("node: this node is in no cluster (--etcd)");
  const absl::StatusOr<std::string> id = UuidOf(request.node_uuid());
  if (!id.ok()) return id.status();
  if (!request.look()) {
    const absl::StatusOr<uint64_t> term = drain_(*id, !request.undo());
    if (!term.ok()) return term.status();
    response->set_term(*term);
  }
  v1::DfResponse df;
  if (request.node_uuid() == UuidText(store_->header()->node_uuid)) {
    store_->Df(&df);
  } else {
    const PeerRef peer = PeerNamed(request.node_uuid());
    if (peer == nullptr) return absl::NotFoundError(StrCat("node ", request.node_uuid(), ": no member of the cluster"));
    if (absl::Status s = peer->Ask(&v1::Store::Stub::Df, v1::DfRequest(), &df); !s.ok()) return s;
  }
  response->set_tensors(df.held());
  response->set_bytes(df.held_bytes());
  response->set_pins(df.pins());
  return absl::OkStatus();
}

// A whole uuid, or its beginning if that says which one.
absl::StatusOr<directory::NodeId> RemoteStore::MemberOf(const std::string& uuid) {
  std::map<std::string, directory::NodeId> found;
  const auto look = [&](directory::NodeId node, const std::string& whole) {
    if (whole.starts_with(uuid)) found[whole] = node;
  };
  look(self_, UuidText(store_->header()->node_uuid));
  {
    std::lock_guard lock(mutex_);
    for (const auto& [node, peer] : by_node_) look(node, uuids_[node]);
  }
  if (uuid.empty()) return absl::InvalidArgumentError("to: is empty; a node's uuid is needed (`penstock nodes` shows them), or its beginning");
  if (found.empty()) return absl::NotFoundError(StrCat("to: node ", uuid, " is no member of the cluster"));
  if (found.size() > 1) return absl::InvalidArgumentError(StrCat("to: ", uuid, " is the beginning of ", found.size(), " nodes' uuids"));
  return found.begin()->second;
}

absl::Status RemoteStore::MoveTensor(const v1::MoveTensorRequest& request, v1::MoveTensorResponse* response) {
  if (directory_ == nullptr) return absl::FailedPreconditionError("move: this node is in no cluster (--etcd)");
  const absl::StatusOr<directory::NodeId> to = MemberOf(request.to());
  if (!to.ok()) return to.status();
  return server::MoveTensor(*directory_, request, *to, [this](directory::NodeId node) { return NodeName(node); }, response);
}

absl::Status RemoteStore::SettleQuarantined(const v1::SettleQuarantinedRequest& request, v1::SettleQuarantinedResponse* response) {
  if (quarantine_ == nullptr) return absl::NotFoundError("quarantine: this node is in no cluster (--etcd), and has nothing quarantined");
  return quarantine_->Settle(request, response);
}

void RemoteStore::AddPeers(v1::NodeInfoResponse* response) const {
  response->set_reads_by_rdma(rdma_ != nullptr);
  for (const PeerRef& peer : peers_.Now()) {
    if (!peer->absent()) peer->Tell(response->add_peers());
  }
}

void RemoteStore::Stop() {
  if (names_ != nullptr) names_->Stop();
  for (const PeerRef& peer : peers_.Now()) peer->Stop();
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (events_ != nullptr) events_->Stop();
  puts_.Stop();
  if (copies_ != nullptr) copies_->Stop();
  jobs_.Stop();
  if (renewing_.joinable()) renewing_.join();
  if (channels_ != nullptr) channels_->Stop();  // last: that thread keeps them
}

void RemoteStore::RenewLoop() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      if (changed_.wait_for(lock, absl::ToChronoNanoseconds(kRenewEvery), [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; })) return;
    }
    for (const PeerRef& peer : peers_.Now()) peer->Renew();
    reads_.Keep();
    if (directory_ != nullptr) TellLoad();
    if (channels_ != nullptr) channels_->Keep();
  }
}

// For the choice of the nodes that shall keep copies.
void RemoteStore::TellLoad() {
  v1::DfResponse df;
  store_->Df(&df);
  uint64_t received = 0;
  for (const PeerRef& peer : peers_.Now()) {
    v1::PeerInfo info;
    peer->Tell(&info);
    received += info.read_bytes();
  }
  const uint64_t used = df.tensor_bytes() + df.draft_bytes() + df.withheld_bytes();
  directory_->TellLoad({.free_bytes = df.memory_bytes() - std::min(df.memory_bytes(), used), .total_bytes = df.memory_bytes(),
                        .busy = link_load_.Busy(sent_bytes_ ? sent_bytes_() : 0, received, MonotonicNow())});
}

void RemoteStore::AddDf(v1::DfResponse* df) const {
  if (directory_ == nullptr) return;
  const directory::DirectoryStats counts = directory_->Counts();
  df->set_lost(counts.lost);
  df->set_under_replicated(counts.under_replicated);
  df->set_repaired(copies_->repaired());
  df->set_repaired_bytes(copies_->repaired_bytes());
}

uint64_t RemoteStore::StartGet(std::string name, uint64_t version, bool require_rdma) {
  const uint64_t key = jobs_.NewKey();
  std::lock_guard lock(mutex_);
  unflushed_gets_.push_back({std::move(name), version, key, require_rdma || require_rdma_});
  unflushed_.fetch_add(1);
  return key;
}

absl::StatusOr<Published> RemoteStore::GetNow(const std::string& name, uint64_t version) {
  const uint64_t key = jobs_.NewKey();
  gets_.Get({{name, version, key, require_rdma_}});
  const std::optional<Result> result = jobs_.Await(key, MonotonicNow() + absl::Seconds(60));
  if (!result) return absl::DeadlineExceededError(StrCat("'", name, "': the other nodes have not answered in time"));
  if (!result->status.ok()) return result->status;
  return result->published;
}

uint64_t RemoteStore::StartPublish(std::shared_ptr<Session> session, layout::RecordRef record, uint64_t record_seq, std::string order) {
  const uint64_t key = jobs_.NewKey();
  if (by_directory()) {
    auto publish = [this, key, session, record, record_seq] {
      cluster_puts_->Publish(session, record, record_seq, [this, key](const absl::StatusOr<Published>& published) { Finish(key, published); });
    };
    if (store_->WantsChecksum(record)) {  // of a large one: not on the caller's thread
      jobs_.Run(std::move(publish), {std::move(order)});
    } else {
      publish();
    }
    return key;
  }
  std::lock_guard lock(mutex_);
  unflushed_orders_.insert(order);
  unflushed_puts_.push_back({{std::move(session), record, record_seq, key}, std::move(order)});
  unflushed_.fetch_add(1);
  return key;
}

uint64_t RemoteStore::StartAwaitPut(std::string name, directory::OpId op) {
  return jobs_.Start([this, name = std::move(name), op] {
    const absl::StatusOr<Published> published = cluster_puts_->AwaitEnd(name, op);
    return Result{.status = published.status(), .published = published.ok() ? *published : Published{}};
  });
}

bool RemoteStore::IsPublishing(const std::string& order) {
  {
    std::lock_guard lock(mutex_);
    if (unflushed_orders_.contains(order)) return true;
  }
  return jobs_.Pending(order);
}

void RemoteStore::Flush() {
  if (unflushed_.load() == 0) return;
  std::vector<RemoteGets::Item> gets;
  std::vector<Put> puts;
  {
    std::lock_guard lock(mutex_);
    gets.swap(unflushed_gets_);
    puts.swap(unflushed_puts_);
    unflushed_orders_.clear();
    unflushed_.store(0);
  }
  for (size_t i = 0; i < gets.size(); i += kGetBatch) {
    const auto begin = gets.begin() + static_cast<int64_t>(i), end = gets.begin() + static_cast<int64_t>(std::min(i + kGetBatch, gets.size()));
    jobs_.Run([this, part = std::vector(begin, end)] { gets_.Get(part); });
  }
  // What may take long holds up no others: names that wait for leases go together, large ones alone.
  Batch own, others;
  for (Put& put : puts) {
    // An order that comes a second time waits for the first.
    if (own.orders.contains(put.order)) Run(&own);
    if (others.orders.contains(put.order)) Run(&others);
    if (jobs_.Pending(put.order) || store_->DraftBytes(put.item.record) >= RemoteGets::kLargeBytes) {
      jobs_.Run([this, item = put.item] { puts_.Publish({item}); }, {put.order});
      continue;
    }
    Batch& batch = store_->HasOwnNameOf(put.item.record) ? own : others;
    if (batch.items.size() == kPutBatch) Run(&batch);
    batch.items.push_back(std::move(put.item));
    batch.orders.insert(std::move(put.order));
  }
  Run(&own);
  Run(&others);
}

void RemoteStore::Run(Batch* batch) {
  if (batch->items.empty()) return;
  jobs_.Run([this, items = std::move(batch->items)] { puts_.Publish(items); }, {batch->orders.begin(), batch->orders.end()});
  *batch = {};
}

uint64_t RemoteStore::StartDelete(std::string name, uint64_t version) {
  if (by_directory()) {
    const uint64_t key = jobs_.NewKey();
    names_->Delete(name, version, [this, key](const absl::StatusOr<Published>& deleted) { Finish(key, deleted); });
    return key;
  }
  return jobs_.Start([this, name = std::move(name), version] {
    const absl::StatusOr<Published> deleted = Delete(name, version);
    return Result{.status = deleted.status(), .published = deleted.ok() ? *deleted : Published{}};
  });
}

void RemoteStore::Finish(uint64_t key, const absl::StatusOr<Published>& published) {
  jobs_.Finish(key, {.status = published.status(), .published = published.ok() ? *published : Published{}});
}

}  // namespace penstock::server
