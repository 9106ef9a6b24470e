#include "server/cluster/cluster.h"

#include <cstdlib>
#include <random>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/clock.h"
#include "proto/strcat.h"
#include "server/cluster/set_version.h"
#include "server/membership/directory_view.h"
#include "server/store/record_info.h"

namespace penstock::server {

namespace {

uint64_t RandomWord() {  // not 0
  std::random_device random;
  return (uint64_t{random()} << 32 | random()) | 1;
}

// Of this life of the node's memory; the first process of it draws it.
directory::NodeId BootOf(Membership::Kept* kept) {
  if (kept->boot == 0) kept->boot = RandomWord();
  return kept->boot;
}

}  // namespace

Cluster::Cluster(const NodeConfig& config, Membership::Kept* kept, Store* store, RemoteStore* others, std::function<void(const std::string&)> say)
    : config_(config), kept_(kept), store_(store), others_(others), say_(std::move(say)),
      self_(BootOf(kept)), session_(RandomWord()),
      records_(store), tables_(&store->segments(), store->TakeTableSegments()) {
  directory_ = std::make_unique<ClusterDirectory>(DirectoryConfig(), &records_, &tables_, MakeWorld());
  activations_ = std::make_unique<Activations>(
      ActivationsOptions(),
      Activations::Callbacks{.read = [this](directory::Term view, const auto& by_partition) { directory_->OnActivations(view, by_partition); },
                             .activated = [this](directory::Term view, bool ok, bool retry) { directory_->OnActivated(view, ok, retry); },
                             .event = [this](const std::string& text) { Event(text); }});
  link_ = std::make_unique<DirectoryLink>(DirectoryLinkOptions{.self = self_, .session = session_, .cluster = config.cluster, .tls = config.tls},
                                          [this](directory::NodeId from, std::vector<directory::Message> messages) {
                                            directory_->OnMessages(from, std::move(messages));
                                          });
  others_->UseDirectory(directory_.get(), self_);
  store_->OnWantsToGo([this](const std::string& name, directory::OpId op, Store::Wish why) { others_->LetGo(name, op, why); });
}

directory::Config Cluster::DirectoryConfig() const {
  directory::Config config;
  config.self = self_;
  config.session = session_;
  config.rebalance = config_.rebalance == Rebalancing::kAuto;
  return config;
}

// What the directory does comes with its lock held, so all of these only pass it on.
ClusterDirectory::World Cluster::MakeWorld() {
  return {.send = [this](directory::NodeId to, directory::Message message) {
            if (auto* pull = std::get_if<directory::Pull>(&message)) others_->OfferTo(pull);
            link_->Send(to, message);
          },
          .read_activations = [this](directory::Term view) { activations_->Read(view); },
          .activate = [this](directory::Term view, const auto& partitions) { activations_->Activate(view, partitions); },
          .fetch = [this](const directory::Pull& pull) { others_->StartCopy(pull); },
          .recall_copy = [this](std::string_view name) { others_->RecallCopy(name); },
          .serve_until = [this](directory::Time until) { store_->SetServeUntil(static_cast<uint64_t>(until)); },
          .name_event = [this](const directory::NameEvent& event) { OnNameEvent(event); },
          .history_lost = [this](directory::Partition partition) {
            Event(StrCat("the home and the backup of partition ", partition, " were lost together: its names are made from what the nodes have"));
          },
          .name_of = [this](directory::NodeId node) { return others_->NodeName(node); }};
}

Activations::Options Cluster::ActivationsOptions() const {
  Activations::Options options{.etcd = config_.etcd, .access = config_.etcd_access, .cluster = config_.cluster, .self = {}, .node = self_};
  const NodeUuid uuid = store_->uuid();
  options.self.assign(reinterpret_cast<const char*>(uuid.data()), uuid.size());
  return options;
}

void Cluster::Join(const std::string& address) {
  MembershipOptions options{.etcd = config_.etcd, .access = config_.etcd_access, .cluster = config_.cluster, .ttl = absl::Seconds(config_.member_ttl_s), .self = {}};
  options.self.set_id(store_->uuid().data(), store_->uuid().size());
  options.self.set_session(session_);
  options.self.set_address(address);
  options.self.set_zone(config_.zone);
  options.self.set_host(config_.host_label);
  options.self.set_version(PENSTOCK_VERSION);
  membership_ = std::make_unique<Membership>(
      options, kept_,
      Membership::Callbacks{.view = [this](const v1::View& view, int64_t revision) { OnView(view, revision); },
                            .serve_until = [this](uint64_t ns, int64_t lease) {
                              directory_->OnLease(static_cast<uint64_t>(lease), static_cast<directory::Time>(ns));
                            },
                            .event = [this](const std::string& text) { Event(text); }});
}

void Cluster::OnView(const v1::View& view, int64_t revision) {
  if (cluster_id_ == 0) {
    if (view.cluster_id() == 0) return;  // there is none yet
    cluster_id_ = view.cluster_id();
    if (store_->header()->cluster_id.load() != cluster_id_) tables_.Forget();  // first: the other one says that it was done
    records_.JoinCluster(cluster_id_);
  }
  if (view.cluster_id() != cluster_id_) {
    Event("etcd has lost this cluster and begun another one: starting anew, with what this node has put aside (quarantined)");
    std::_Exit(EXIT_FAILURE);
  }
  std::vector<DirectoryPeer> peers;
  for (const v1::Member& member : view.members()) peers.push_back({.id = DirectoryIdOf(member), .address = member.address()});
  link_->SetPeers(peers);
  const NodeUuid uuid = store_->uuid();
  others_->SetMembers(view, {reinterpret_cast<const char*>(uuid.data()), uuid.size()});
  activations_->OnView(view, revision);
  directory_->OnView(ToDirectoryView(view));
  store_->SetKnowsOthers();
}

void Cluster::OnNameEvent(const directory::NameEvent& event) {
  if (event.kind == directory::NameEventKind::kPut || event.kind == directory::NameEventKind::kDeleted) {
    absl::StatusOr<v1::TensorInfo> info = event.kind == directory::NameEventKind::kPut ? TensorInfoOf(event.name, event.version, event.info) : v1::TensorInfo();
    if (!info.ok()) return;
    info->set_name(event.name);
    SetVersion(event.version, &*info);
    store_->LogNameEvent(event.kind == directory::NameEventKind::kPut ? v1::Event::PUT : v1::Event::DELETE, static_cast<uint64_t>(absl::GetCurrentTimeNanos()), *info,
                         /*elsewhere=*/false);
    return;
  }
  const std::string version = StrCat("'", event.name, "' version ", event.version.number);
  if (event.kind == directory::NameEventKind::kLost) store_->LogEvent(v1::Event::WARNING, StrCat(version, " is lost: every node that had it is gone"));
  if (event.kind == directory::NameEventKind::kFoundAgain) store_->LogEvent(v1::Event::NODE, StrCat(version, " is found again"));
}

void Cluster::Event(const std::string& text) {
  say_(text);
  store_->LogEvent(v1::Event::NODE, text);
}

void Cluster::Stop() {
  if (membership_ != nullptr) membership_->Stop(/*leave=*/true);  // first: the others need not find out
  activations_->Stop();
  link_->Stop();
  directory_->Stop();
}

}  // namespace penstock::server
