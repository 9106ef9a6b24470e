// DirectoryLink: carries the directory's messages between this node and the others of its cluster.
//
//   DirectoryLink link({.self = id, .session = session, .cluster = "penstock", .tls = files},
//                      [&](directory::NodeId from, std::vector<directory::Message> messages) { loop.Post(...); });
//   GrpcServer::Start(..., {..., .directory = &link});        // the others come by its TCP port
//   link.SetPeers({{id, "host:7411"}, ...});  link.Send(id, directory::Recall{run, name});
//   link.Stop();  server->Stop();                             // in this order
//
// Two streams to each peer, each with a connection of its own: one for what is small, one for lists, so that a partition that is
// handed over holds up no put. What is queued while a write is on its way goes as one batch.
//
// Best effort, as server/directory expects: in order while a stream lasts; what was under way when one ended is lost. A stream is
// opened when there is something to send, and again 10 ms .. 1 s after it ended. A peer whose packets vanish is noticed within
// about 2 s. A node that is not meant (another id, another cluster) refuses the stream.
//
// Threading:  any thread; Send encodes the message (a microsecond; a list some hundred) and does not wait for the network. One
//             thread of its own, which opens streams. OnMessages runs on gRPC's threads, for each stream one call at a time, for
//             several streams several: it must be quick and may call Send, but not Stop.
// Ownership:  the server that it was added to must have stopped before the link is destroyed
// Errors:     none: what cannot be sent, or not be understood, is dropped and counted (Tell)
// Limits:     32 MiB wait for a stream, the oldest go first; what is older than 2 s goes when a stream is opened again. A batch has
//             1 MiB, or one message. A message of more than 32 MiB is dropped.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "server/directory/directory_messages.h"
#include "server/directory/ids.h"
#include "server/directory_link/link_counters.h"
#include "server/penstockd/config.h"

namespace grpc {
class ChannelCredentials;
class ServerBuilder;
}  // namespace grpc

namespace penstock::server {

class IncomingStreams;
class PeerStream;

struct DirectoryLinkOptions {
  directory::NodeId self = 0;
  uint64_t session = 0;
  std::string cluster;
  uint32_t partition_count = 4096;
  TlsFiles tls;
  size_t queue_bytes = size_t{32} << 20;  // of each stream
};

struct DirectoryPeer {
  directory::NodeId id = 0;
  std::string address;  // of its gRPC, host:port
  bool operator==(const DirectoryPeer&) const = default;
};

struct DirectoryLinkStats {
  // Bytes are those of encoded messages.
  uint64_t messages_sent = 0, bytes_sent = 0, messages_received = 0, bytes_received = 0;
  uint64_t messages_dropped = 0;   // not sent: no such peer, the queue was full, too old, or the stream ended
  uint64_t messages_refused = 0;   // received, and not understood
  uint64_t streams_refused = 0;    // of nodes that meant another one, or no node at all
  uint64_t reconnects = 0;         // streams that took the place of one that had ended
  std::string last_refused;        // the last message or stream that was refused: from whom, and why
  struct Peer {
    DirectoryPeer peer;
    bool connected = false;       // the stream for small messages is there
    bool bulk_connected = false;
    uint64_t session = 0;         // of its process, as it said last; 0: it never did
    uint64_t queued_bytes = 0;
    std::string error;            // why the last stream ended or was not opened; empty: none did since it is connected
  };
  std::vector<Peer> peers;  // by id
};

class DirectoryLink {
 public:
  using OnMessages = std::function<void(directory::NodeId from, std::vector<directory::Message> messages)>;
  DirectoryLink(const DirectoryLinkOptions& options, OnMessages on_messages);
  ~DirectoryLink();
  DirectoryLink(const DirectoryLink&) = delete;
  DirectoryLink& operator=(const DirectoryLink&) = delete;

  // Before the server starts: others can come then, and may ask often whether this node is there.
  void AddTo(grpc::ServerBuilder* builder);

  // All of them; this node's own id is passed over. Streams to those that are gone, or have moved, end.
  void SetPeers(const std::vector<DirectoryPeer>& peers);
  void Send(directory::NodeId to, const directory::Message& message);

  DirectoryLinkStats Tell() const;

  // Ends all streams, in and out; afterwards nothing is delivered and nothing sent. One thread; idempotent.
  void Stop();

 private:
  struct Peer {
    DirectoryPeer peer;
    // Shared with their gRPC calls, which may end after the peer was let go.
    std::shared_ptr<PeerStream> small, bulk;
  };
  Peer NewPeer(const DirectoryPeer& peer);
  std::vector<std::shared_ptr<PeerStream>> Streams() const;
  void KeepConnecting();

  const DirectoryLinkOptions options_;
  const std::shared_ptr<LinkCounters> counters_;  // likewise
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  const std::unique_ptr<IncomingStreams> incoming_;

  mutable std::mutex mutex_;
  absl::flat_hash_map<directory::NodeId, Peer> peers_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  // A PeerStream takes wake_mutex_ while it holds its own.
  std::mutex wake_mutex_;
  std::condition_variable wake_;
  bool woken_ ABSL_GUARDED_BY(wake_mutex_) = false;
  bool stop_connecting_ ABSL_GUARDED_BY(wake_mutex_) = false;
  std::thread connecting_;
};

}  // namespace penstock::server
