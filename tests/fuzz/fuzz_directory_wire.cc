// What other nodes of a cluster tell a node about names: any bytes as a DirectoryMessage, and what gets through as an event of
// the directory's state machines, in any order.
//
// One input: a byte for the kind of cluster, then a row of messages: a byte for who sends it, two for the length, its bytes.
//
// Found are crashes, sanitizer reports, a message that does not come back as it was, and one that the state machines send and
// nobody would take.
#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "proto/names.h"
#include "server/directory/directory_node.h"
#include "server/directory_link/wire.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/unit/server/directory_link/random_message.h"

namespace penstock::server::directory {
namespace {

constexpr NodeId kSelf = 1, kOther = 2;

class MapRecords : public Records {
 public:
  explicit MapRecords(uint32_t partitions) : partitions_(partitions) {}
  std::optional<HeldRecord> Find(std::string_view name, OpId op) const override {
    const auto it = records_.find({std::string(name), op});
    if (it == records_.end()) return std::nullopt;
    return it->second;
  }
  void SetState(std::string_view name, OpId op, RecordState state, Version version) override {
    const auto it = records_.find({std::string(name), op});
    if (it == records_.end()) return;
    it->second.state = state;
    it->second.version = version;
  }
  void Drop(std::string_view name, OpId op) override { records_.erase({std::string(name), op}); }
  std::vector<HeldRecord> List(Partition partition, std::string_view after, size_t limit) const override {
    std::vector<HeldRecord> listed;
    for (const auto& [key, record] : records_) {
      if (record.name <= after || PartitionOf(record.name, partitions_) != partition) continue;
      if (listed.size() >= limit && record.name != listed.back().name) break;
      listed.push_back(record);
    }
    return listed;
  }
  void ForEach(const std::function<void(const HeldRecord&)>& visit) const override {
    for (const auto& [key, record] : records_) visit(record);
  }
  Term since() const override { return since_; }
  void SetSince(Term since) override { since_ = since; }
  void Add(HeldRecord record) {
    auto key = std::make_pair(record.name, record.op);
    records_.insert_or_assign(std::move(key), std::move(record));
  }

 private:
  const uint32_t partitions_;
  std::map<std::pair<std::string, OpId>, HeldRecord> records_;
  Term since_ = 0;
};

// A node of two: etcd answers, fetches succeed, and the other one answers what must be answered if `helpful`.
class Cluster : public Environment {
 public:
  Cluster(uint32_t partitions, bool helpful) : partitions_(partitions), helpful_(helpful), records_(partitions), node_(ConfigOf(partitions), *this, records_) {
    View view{.term = 1, .members = {}, .absent = {}};
    for (const NodeId id : {kSelf, kOther}) view.members.push_back({.id = id, .session = 10 + id, .lease = id, .since = 1, .draining = false, .host = {}, .zone = {}});
    Happens([&](Time now) { node_.OnView(now, view); });
    Happens([&](Time now) { node_.OnLease(now, kSelf, now + 1000 * kSecond); });
  }

  void Tell(NodeId from, Message message) {
    Happens([&](Time now) { node_.OnMessage(now, from, std::move(message)); });
    Happens([&](Time now) { node_.Tick(now); });
  }

  void Send(NodeId to, Message message) override {
    const absl::StatusOr<Message> told = Decode(Encode(message), partitions_);
    FUZZ_CHECK(told.ok() && SameMessage(message, *told));
    if (helpful_ && to == kOther) Answer(message);
  }
  void ReadActivations(Term view) override {
    later_.push_back([this, view](Time now) { node_.OnActivations(now, view, std::vector<Activation>(partitions_)); });
  }
  void Activate(Term view, const std::vector<ActivatePartition>&) override {
    later_.push_back([this, view](Time now) { node_.OnActivated(now, view, true, false); });
  }
  void FinishOperation(OpId, Outcome, Version) override {}
  void FinishLookup(uint64_t, const std::vector<LookupResult>&, Time) override {}
  void Fetch(const Pull& pull) override {
    records_.Add({.name = pull.name, .op = pull.op, .version = {}, .prepared_in = std::max(pull.view, Term{1}), .state = RecordState::kPrepared,
                  .nbytes = pull.info.nbytes, .replicas = pull.info.replicas, .cache = pull.info.cache, .info = pull.info.info});
    later_.push_back([this, name = pull.name, op = pull.op](Time now) { node_.OnFetched(now, name, op, true); });
  }
  void RecallCopy(std::string_view) override {}
  void FinishMove(uint64_t, const MoveAnswer&) override {}
  void OnNameEvent(const NameEvent&) override {}
  void OnHistoryLost(Partition) override {}

 private:
  static Config ConfigOf(uint32_t partitions) {
    Config config;
    config.self = kSelf;
    config.session = 10 + kSelf;
    config.partition_count = partitions;
    return config;
  }

  template <class Event>
  void Happens(Event event) {
    event(now_ += 20 * kMillisecond);
    for (int i = 0; i < 1000 && !later_.empty(); ++i) {
      const auto next = std::move(later_.front());
      later_.erase(later_.begin());
      next(now_);
    }
  }

  void Hear(Message message) {
    later_.push_back([this, message = std::move(message)](Time now) mutable { node_.OnMessage(now, kOther, std::move(message)); });
  }
  void Answer(const Message& message) {
    if (const auto* ask = std::get_if<AnnounceAsk>(&message)) {
      for (const Partition p : ask->partitions) Hear(AnnouncePart{.view = ask->view, .partition = p, .last = true, .cut = false, .after = {}, .records = {}});
    } else if (const auto* push = std::get_if<Push>(&message)) {
      Hear(PushAck{push->view, push->partition, push->chunk});
    } else if (const auto* replicate = std::get_if<Replicate>(&message)) {
      Hear(ReplicateAck{replicate->partition, replicate->term, replicate->entry.stamp, std::string(replicate->entry.name())});
    } else if (const auto* supersede = std::get_if<Supersede>(&message)) {
      Hear(RunAck{supersede->run, supersede->name, true});
    }
  }

  const uint32_t partitions_;
  const bool helpful_;
  MapRecords records_;
  std::vector<std::function<void(Time)>> later_;
  Time now_ = kSecond;
  DirectoryNode node_;
};

}  // namespace
}  // namespace penstock::server::directory

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace penstock::server::directory;
  if (size == 0) return 0;
  const uint32_t partitions = (data[0] & 1) != 0 ? 16 : 1;  // with one, every name is in its place
  Cluster cluster(partitions, (data[0] & 2) != 0);
  ++data, --size;
  while (size >= 3) {
    const size_t length = std::min<size_t>(data[1] | (data[2] << 8), size - 3);
    absl::StatusOr<Message> message = Decode({reinterpret_cast<const char*>(data) + 3, length}, partitions);
    if (message.ok()) {
      const absl::StatusOr<Message> again = Decode(Encode(*message), partitions);
      FUZZ_CHECK(again.ok() && SameMessage(*message, *again));
      cluster.Tell(1 + data[0] % 3, *std::move(message));
    } else {
      FUZZ_CHECK(!message.status().message().empty());
    }
    data += 3 + length;
    size -= 3 + length;
  }
  return 0;
}
