#include "server/directory_link/directory_link.h"

#include <algorithm>
#include <utility>

#include "directory.pb.h"
#include "server/directory_link/incoming_streams.h"
#include "server/directory_link/peer_stream.h"
#include "server/directory_link/wire.h"
#include "server/rpc/grpc_tls.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr size_t kBulkBytes = 64 * 1024;  // what is larger holds up others, whatever it is

}  // namespace

DirectoryLink::DirectoryLink(const DirectoryLinkOptions& options, OnMessages on_messages)
    : options_(options), counters_(std::make_shared<LinkCounters>()), credentials_(PeerCredentialsOf(options.tls)),
      incoming_(IncomingStreams::Create({.self = options.self, .session = options.session, .cluster = options.cluster,
                                         .partition_count = options.partition_count, .counters = counters_,
                                         .on_messages = std::move(on_messages)})),
      connecting_([this] { KeepConnecting(); }) {}

DirectoryLink::~DirectoryLink() { Stop(); }

void DirectoryLink::AddTo(grpc::ServerBuilder* builder) { incoming_->AddTo(builder); }

DirectoryLink::Peer DirectoryLink::NewPeer(const DirectoryPeer& peer) {
  PeerStream::Options options{.address = peer.address, .credentials = credentials_, .hello = {}, .queue_bytes = options_.queue_bytes,
                              .counters = counters_, .wake = [this] {
                                std::lock_guard lock(wake_mutex_);
                                woken_ = true;
                                wake_.notify_one();
                              }};
  options.hello.set_from(options_.self);
  options.hello.set_from_session(options_.session);
  options.hello.set_to(peer.id);
  options.hello.set_cluster(options_.cluster);
  auto small = std::make_shared<PeerStream>(options);
  options.hello.set_bulk(true);
  return {peer, std::move(small), std::make_shared<PeerStream>(options)};
}

void DirectoryLink::SetPeers(const std::vector<DirectoryPeer>& peers) {
  std::vector<Peer> left;
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    absl::flat_hash_map<directory::NodeId, Peer> now;
    for (const DirectoryPeer& peer : peers) {
      if (peer.id == 0 || peer.id == options_.self) continue;
      const auto known = peers_.find(peer.id);
      now[peer.id] = known != peers_.end() && known->second.peer == peer ? known->second : NewPeer(peer);
    }
    for (const auto& [id, peer] : peers_) {
      const auto stays = now.find(id);
      if (stays == now.end() || stays->second.small != peer.small) left.push_back(peer);
    }
    peers_.swap(now);
  }
  for (const Peer& peer : left) {
    peer.small->Stop();
    peer.bulk->Stop();
  }
}

void DirectoryLink::Send(directory::NodeId to, const directory::Message& message) {
  std::string encoded = directory::Encode(message);
  std::shared_ptr<PeerStream> stream;
  {
    std::lock_guard lock(mutex_);
    const auto peer = peers_.find(to);
    if (peer != peers_.end()) {
      const bool bulk = directory::IsBulk(message) || encoded.size() > kBulkBytes;
      stream = bulk ? peer->second.bulk : peer->second.small;
    }
  }
  if (stream == nullptr || encoded.size() > directory::kMaxMessageBytes) {
    counters_->messages_dropped.fetch_add(1);
    return;
  }
  stream->Send(std::move(encoded));
}

std::vector<std::shared_ptr<PeerStream>> DirectoryLink::Streams() const {
  std::vector<std::shared_ptr<PeerStream>> streams;
  std::lock_guard lock(mutex_);
  for (const auto& [id, peer] : peers_) {
    streams.push_back(peer.small);
    streams.push_back(peer.bulk);
  }
  return streams;
}

void DirectoryLink::KeepConnecting() {
  std::unique_lock lock(wake_mutex_);
  while (!stop_connecting_) {
    woken_ = false;
    lock.unlock();
    const absl::Time now = MonotonicNow();
    absl::Time next = absl::InfiniteFuture();
    for (const std::shared_ptr<PeerStream>& stream : Streams()) next = std::min(next, stream->ConnectIfDue(now));
    lock.lock();
    if (woken_ || stop_connecting_) continue;
    if (next == absl::InfiniteFuture()) {
      wake_.wait(lock);
    } else {
      wake_.wait_for(lock, absl::ToChronoNanoseconds(next - MonotonicNow()));
    }
  }
}

DirectoryLinkStats DirectoryLink::Tell() const {
  DirectoryLinkStats stats;
  stats.messages_sent = counters_->messages_sent.load();
  stats.bytes_sent = counters_->bytes_sent.load();
  stats.messages_received = counters_->messages_received.load();
  stats.bytes_received = counters_->bytes_received.load();
  stats.messages_dropped = counters_->messages_dropped.load();
  stats.messages_refused = counters_->messages_refused.load();
  stats.streams_refused = counters_->streams_refused.load();
  stats.reconnects = counters_->reconnects.load();
  stats.last_refused = counters_->last_refused();
  std::vector<Peer> peers;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, peer] : peers_) peers.push_back(peer);
  }
  std::sort(peers.begin(), peers.end(), [](const Peer& a, const Peer& b) { return a.peer.id < b.peer.id; });
  for (const Peer& peer : peers) {
    const std::string error = peer.small->error();
    stats.peers.push_back({.peer = peer.peer, .connected = peer.small->connected(), .bulk_connected = peer.bulk->connected(),
                           .session = peer.small->session(),
                           .queued_bytes = peer.small->queued_bytes() + peer.bulk->queued_bytes(),
                           .error = error.empty() ? peer.bulk->error() : error});
  }
  return stats;
}

void DirectoryLink::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  {
    std::lock_guard lock(wake_mutex_);
    stop_connecting_ = true;
    wake_.notify_one();
  }
  if (connecting_.joinable()) connecting_.join();
  const std::vector<std::shared_ptr<PeerStream>> streams = Streams();
  for (const auto& stream : streams) stream->Stop();
  for (const auto& stream : streams) stream->AwaitEnd();
  incoming_->Stop();
}

}  // namespace penstock::server
