// Snapshots: sets of tensors under one prefix, published at once, with numbers, a latest one and retention.
//
//   auto writer = penstock::SnapshotWriter::Open(*client, "ckpt/llama", {.keep_last = 3});
//   (*writer)->PutMany({{.key = "wte", .tensor = wte}, ...});
//   auto info   = (*writer)->Commit();                  // until here nobody sees anything of it
//   auto latest = penstock::Snapshots(*client, "ckpt/llama").Read();     // what is in it, and under which names
//   auto view   = client->Get(latest->tensors[0].shards[0].name);
//
// A writer that ends without Commit, by SIGKILL too, leaves nothing. Several ranks can write one snapshot together: rank 0 commits it
// when all have put.
//
// Threading:  SnapshotWriter, SnapshotStage: one thread at a time. Snapshots: any thread.
// Ownership:  keep what they need of the client's connection alive; the Client may go first.
// Errors:     InvalidArgument (prefix, key, shards that do not fit), NotFound (no such snapshot), Aborted (the number is taken; a
//             rank or the session that had put tensors is gone), DeadlineExceeded (a rank has not put in time), and Client::Put's.
// Limits:     opening and committing are a few calls to the node; each costs as much as a small put. A writer that dies between its
//             Commit's two steps where the prefix is at home on another node, or where ranks write together, leaves tensors that the
//             next writer or remover of that prefix deletes; so does, after an hour, a writer on a host without a node, which has an
//             hour for its snapshot.
#pragma once

#include <penstock/client.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

struct SnapshotInfo {
  uint64_t number = 0;
  std::string id;
  absl::Time created;
  uint64_t nbytes = 0;   // of all shards
  uint64_t tensors = 0;
  bool pinned = false;   // keep_last passes over it
  Metadata metadata;
};

struct SnapshotShard {
  std::string name;  // of the tensor that holds it, for Client::Get
  Box box;           // in the whole
};

struct SnapshotTensor {
  std::string key;
  DType dtype = DType::kInvalid;
  Shape shape;                        // of the whole
  std::vector<SnapshotShard> shards;  // disjoint, together the whole; none when it is empty
};

struct SnapshotContents {
  SnapshotInfo info;
  std::string document;  // what the writer said of how the tensors make a whole (Python's state dicts: JSON)
  std::vector<SnapshotTensor> tensors;
};

struct SnapshotOptions {
  std::optional<uint64_t> number;  // above 0 and not taken; none = the latest + 1. Several ranks must give one
  uint32_t keep_last = 0;          // 0 = all; else only so many stay, the pinned ones beside
  Metadata metadata;
  uint32_t rank = 0;
  uint32_t ranks = 1;
  std::string id;  // of another rank: SnapshotWriter::id of rank 0, if it can tell; else the rank waits for one of that number
  absl::Duration timeout = absl::Minutes(10);  // for the other ranks
  std::function<bool()> cancelled;             // asked now and then while waiting for them; true ends that with Cancelled
};

// Tensors that are put before their snapshot is opened, by whoever opens it: a trainer copies its state here and goes on, while another
// thread or process names and publishes it, once (SnapshotWriter::Item::staged). What no snapshot has taken goes with this object, or its process.
class SnapshotStage {
 public:
  // FailedPrecondition: this host's node has no new names of its own, so it could not tell that this process has died.
  static absl::StatusOr<std::unique_ptr<SnapshotStage>> Open(const Client& client);
  virtual const std::string& id() const = 0;
  virtual ~SnapshotStage() = default;
  // One copy each; numbered on, from the one that is returned.
  virtual absl::StatusOr<uint32_t> PutMany(absl::Span<const ConstTensorRef> tensors) = 0;
  virtual std::string Name(uint32_t number) const = 0;  // for Client::Get
  virtual void Drop() = 0;                              // what no snapshot has taken; idempotent
};

class SnapshotWriter {
 public:
  static absl::StatusOr<std::unique_ptr<SnapshotWriter>> Open(const Client& client, std::string_view prefix, const SnapshotOptions& options = {});
  virtual const std::string& id() const = 0;
  virtual ~SnapshotWriter() = default;  // without Commit: everything that was put is deleted

  struct Staged {
    std::string_view id;  // SnapshotStage::id
    uint32_t number = 0;
  };
  struct Item {
    std::string_view key;       // any text; once a snapshot, or once a shard
    ConstTensorRef tensor;
    std::optional<Staged> staged = std::nullopt;  // it was put there: of `tensor`, dtype and shape count
    std::optional<Box> box;     // in a whole of `whole`: this is a shard of it
    Shape whole;
  };
  // One copy each, none of what is staged, in one pass. After an error the snapshot can only be aborted.
  virtual absl::Status PutMany(absl::Span<const Item> items) = 0;
  virtual void SetDocument(std::string document) = 0;  // rank 0's counts

  // Visible to everybody when this returns; of several ranks, when all have come here. DeadlineExceeded and Unavailable may mean that
  // it happened, or will, and nobody could say so: Snapshots::List tells.
  virtual absl::StatusOr<SnapshotInfo> Commit() = 0;
  // Of a rank other than 0, instead of Commit: says that it has put everything, and does not wait for rank 0.
  virtual absl::Status Vote() = 0;
  virtual void Abort() = 0;  // idempotent
};

class Snapshots {
 public:
  Snapshots(const Client& client, std::string_view prefix);
  ~Snapshots();

  absl::StatusOr<std::vector<SnapshotInfo>> List() const;                      // by number; empty when there are none
  absl::StatusOr<SnapshotInfo> Find(std::optional<uint64_t> number = {}) const;  // none = the latest
  absl::StatusOr<SnapshotContents> Read(std::optional<uint64_t> number = {}) const;
  absl::Status Remove(uint64_t number);            // views of its tensors stay valid
  absl::Status Pin(uint64_t number, bool pinned);
  // The latest, as soon as its number is above `number`.
  absl::StatusOr<SnapshotInfo> WaitAfter(uint64_t number, absl::Duration timeout) const;

  // The prefixes that have snapshots and begin with `prefix`.
  static absl::StatusOr<std::vector<std::string>> Prefixes(const Client& client, std::string_view prefix);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace penstock
