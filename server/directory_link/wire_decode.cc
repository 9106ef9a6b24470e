#include <google/protobuf/arena.h>

#include "server/directory_link/wire_reader.h"

namespace penstock::server::directory {
namespace {

namespace pb = v1::directory;

// Each kind, field by field.
class Reader : public FieldReader {
 public:
  using FieldReader::FieldReader;
  using FieldReader::Read;

  void Read(pb::Propose& from, Propose* to) {
    Read(from.op(), &to->op);
    to->term = from.term();
    to->first_term = from.first_term();
    to->since = from.since();
    to->finished_below = from.finished_below();
    to->remove = from.remove();
    ReadName(from.mutable_name(), &to->name);
    to->conditions = {from.conditions().if_absent(), from.conditions().if_version(), from.conditions().version()};
    ReadInfo(from.mutable_info(), &to->info);
    ReadNodes("holders", from.holders(), &to->holders);
    ReadReasons(from.reasons(), to->holders.size(), &to->reasons);
  }

  void Read(pb::ProposeAnswer& from, ProposeAnswer* to) {
    Read(from.op(), &to->op);
    ReadPartition(from.partition(), &to->partition);
    to->term = from.term();
    ReadEnum("outcome", from.outcome(), Outcome::kElsewhere, &to->outcome);
    Read(from.version(), &to->version);
    to->held = from.held();
  }

  void Read(pb::Supersede& from, Supersede* to) {
    to->term = from.term();
    to->run = from.run();
    ReadNameIn(from.partition(), from.mutable_name(), &to->partition, &to->name);
    Read(from.op(), &to->op);
    Read(from.version(), &to->version);
  }

  void Read(pb::Recall& from, Recall* to) {
    to->run = from.run();
    ReadName(from.mutable_name(), &to->name);
  }

  void Read(pb::RunAck& from, RunAck* to) {
    to->run = from.run();
    ReadName(from.mutable_name(), &to->name);
    to->superseded = from.superseded();
  }

  void Read(pb::Replicate& from, Replicate* to) {
    to->term = from.term();
    ReadPartition(from.partition(), &to->partition);
    Within("entry", [&] { ReadIn(to->partition, *from.mutable_entry(), &to->entry); });
  }

  void Read(pb::ReplicateAck& from, ReplicateAck* to) {
    to->term = from.term();
    Read(from.stamp(), &to->stamp);
    ReadNameIn(from.partition(), from.mutable_name(), &to->partition, &to->name);
  }

  void Read(pb::Committed& from, Committed* to) {
    to->term = from.term();
    ReadNameIn(from.partition(), from.mutable_name(), &to->partition, &to->name);
    Read(from.op(), &to->op);
    Read(from.version(), &to->version);
  }

  void Read(pb::Drop& from, Drop* to) {
    ReadName(from.mutable_name(), &to->name);
    Read(from.op(), &to->op);
    Read(from.version(), &to->version);
  }

  void Read(pb::Discard& from, Discard* to) {
    ReadName(from.mutable_name(), &to->name);
    Read(from.op(), &to->op);
  }

  void Read(pb::Resolve& from, Resolve* to) {
    to->session = from.session();
    to->sequence = from.sequence();
    ReadAll("items", from.mutable_items(), &to->items, kMaxListed);
  }

  void Read(pb::ResolveItem& from, ResolveItem* to) {
    to->term = from.term();
    ReadNameIn(from.partition(), from.mutable_name(), &to->partition, &to->name);
    Read(from.op(), &to->op);
    Read(from.version(), &to->version);
    to->prepared_in = from.prepared_in();
    to->question = from.question();
    to->leaving = from.leaving();
    to->evicting = from.evicting();
    to->damaged = from.damaged();
    ReadReason(from.reason(), &to->reason);
  }

  void Read(pb::Verdicts& from, Verdicts* to) { ReadAll("items", from.mutable_items(), &to->items, kMaxListed); }

  void Read(pb::Verdict& from, Verdict* to) {
    to->term = from.term();
    ReadNameIn(from.partition(), from.mutable_name(), &to->partition, &to->name);
    Read(from.op(), &to->op);
    to->question = from.question();
    ReadEnum("kind", from.kind(), VerdictKind::kElsewhere, &to->kind);
    Read(from.version(), &to->version);
  }

  void Read(pb::OpQuery& from, OpQuery* to) {
    ReadName(from.mutable_name(), &to->name);
    Read(from.op(), &to->op);
  }

  void Read(pb::OpQueryAnswer& from, OpQueryAnswer* to) {
    ReadName(from.mutable_name(), &to->name);
    Read(from.op(), &to->op);
    to->open = from.open();
  }

  void Read(pb::Lookup& from, Lookup* to) {
    to->request = from.request();
    to->lease = from.lease();
    ReadAll("names", from.mutable_names(), &to->names, kMaxListed);
  }

  void Read(pb::LookupItem& from, LookupItem* to) {
    to->index = from.index();
    ReadName(from.mutable_name(), &to->name);
  }

  void Read(pb::LookupAnswer& from, LookupAnswer* to) {
    to->request = from.request();
    ReadAll("items", from.mutable_items(), &to->items, kMaxListed);
  }

  void Read(pb::LookupAnswerItem& from, LookupAnswerItem* to) {
    to->index = from.index();
    Within("result", [&] {
      pb::LookupResult& result = *from.mutable_result();
      ReadEnum("status", result.status(), LookupStatus::kElsewhere, &to->result.status);
      Read(result.version(), &to->result.version);
      Read(result.op(), &to->result.op);
      ReadInfo(result.mutable_info(), &to->result.info);
      ReadNodes("holders", result.holders(), &to->result.holders);
      ReadReasons(result.reasons(), to->result.holders.size(), &to->result.reasons);
    });
  }

  void Read(pb::HandoverAsk& from, HandoverAsk* to) {
    to->view = from.view();
    ReadAll("items", from.mutable_items(), &to->items, partition_count());
    ReadAfter(from.mutable_after(), &to->after);
  }

  void Read(pb::HandoverItem& from, HandoverItem* to) {
    ReadPartition(from.partition(), &to->partition);
    to->base = from.base();
  }

  void Read(pb::HandoverPart& from, HandoverPart* to) {
    to->view = from.view();
    ReadPartition(from.partition(), &to->partition);
    to->complete = from.complete();
    to->last = from.last();
    to->cut = from.cut();
    ReadAfter(from.mutable_after(), &to->after);
    Read(from.floor(), &to->floor);
    ReadAllIn(to->partition, "entries", from.mutable_entries(), &to->entries);
  }

  void Read(pb::AnnounceAsk& from, AnnounceAsk* to) {
    to->view = from.view();
    to->since = from.since();
    ReadPartitions(from.partitions(), &to->partitions);
    ReadAfter(from.mutable_after(), &to->after);
  }

  void Read(pb::AnnouncePart& from, AnnouncePart* to) {
    to->view = from.view();
    ReadPartition(from.partition(), &to->partition);
    to->last = from.last();
    to->cut = from.cut();
    ReadAfter(from.mutable_after(), &to->after);
    ReadAllIn(to->partition, "records", from.mutable_records(), &to->records);
  }

  void Read(pb::Push& from, Push* to) {
    to->view = from.view();
    ReadPartition(from.partition(), &to->partition);
    to->base = from.base();
    to->chunk = from.chunk();
    to->last = from.last();
    Read(from.floor(), &to->floor);
    ReadAllIn(to->partition, "entries", from.mutable_entries(), &to->entries);
  }

  void Read(pb::PushAck& from, PushAck* to) {
    to->view = from.view();
    ReadPartition(from.partition(), &to->partition);
    to->chunk = from.chunk();
  }

  void Read(pb::Activated& from, Activated* to) {
    to->term = from.term();
    ReadPartitions(from.partitions(), &to->partitions);
  }

  void Read(pb::Refused& from, Refused* to) {
    ReadPartition(from.partition(), &to->partition);
    to->promised = from.promised();
  }

  void Read(pb::Pull& from, Pull* to) {
    ReadName(from.mutable_name(), &to->name);
    Read(from.op(), &to->op);
    Read(from.version(), &to->version);
    to->view = from.view();
    ReadInfo(from.mutable_info(), &to->info);
    ReadNodes("from", from.from(), &to->from);
    ReadReason(from.reason(), &to->reason);
    to->offer = from.offer();
  }

  void Read(pb::PullDone& from, PullDone* to) {
    ReadName(from.mutable_name(), &to->name);
    Read(from.op(), &to->op);
    to->ok = from.ok();
    to->going = from.going();
    to->busy = from.busy();
  }

  void Read(pb::Move& from, Move* to) {
    to->request = from.request();
    ReadName(from.mutable_name(), &to->name);
    if (from.to() == 0) Refuse("to", "0 is no node");
    to->to = from.to();
    to->copy = from.copy();
  }

  void Read(pb::MoveAnswer& from, MoveAnswer* to) {
    to->request = from.request();
    ReadEnum("outcome", from.outcome(), MoveOutcome::kElsewhere, &to->outcome);
    to->from = from.from();
    to->bytes = from.bytes();
  }

  void Read(pb::LoadReport& from, LoadReport* to) {
    to->free_bytes = from.free_bytes();
    to->total_bytes = from.total_bytes();
    if (from.busy_percent() > 100) Refuse("busy_percent", StrCat(from.busy_percent(), " is above 100"));
    to->busy_percent = from.busy_percent();
  }

  void Read(pb::LetGo& from, LetGo* to) {
    ReadName(from.mutable_name(), &to->name);
    Read(from.op(), &to->op);
  }

  void Read(pb::Collect& from, Collect* to) { ReadCollect(from, to); }
  void Read(pb::CollectAck& from, CollectAck* to) { ReadCollect(from, to); }

 private:
  template <class From, class To>
  void ReadCollect(const From& from, To* to) {
    ReadPartition(from.partition(), &to->partition);
    to->term = from.term();
    Read(from.upto(), &to->upto);
  }

  template <class From, class To>
  void ReadAll(std::string_view field, From* from, std::vector<To>* to, size_t limit) {
    ReadEach(field, from, to, limit, [this](auto& item, To* out) { this->Read(item, out); });
  }
};

template <class Kind, class From>
absl::StatusOr<Message> Take(Reader& reader, std::string_view name, From* from) {
  Kind message;
  reader.Read(*from, &message);
  if (!reader.ok()) return reader.status(name);
  return Message(std::move(message));
}

absl::StatusOr<Message> TakeAny(Reader& reader, pb::DirectoryMessage* from) {
  using M = pb::DirectoryMessage;
  switch (from->kind_case()) {
    case M::kPropose: return Take<Propose>(reader, "propose", from->mutable_propose());
    case M::kProposeAnswer: return Take<ProposeAnswer>(reader, "propose_answer", from->mutable_propose_answer());
    case M::kSupersede: return Take<Supersede>(reader, "supersede", from->mutable_supersede());
    case M::kRecall: return Take<Recall>(reader, "recall", from->mutable_recall());
    case M::kRunAck: return Take<RunAck>(reader, "run_ack", from->mutable_run_ack());
    case M::kReplicate: return Take<Replicate>(reader, "replicate", from->mutable_replicate());
    case M::kReplicateAck: return Take<ReplicateAck>(reader, "replicate_ack", from->mutable_replicate_ack());
    case M::kCommitted: return Take<Committed>(reader, "committed", from->mutable_committed());
    case M::kDrop: return Take<Drop>(reader, "drop", from->mutable_drop());
    case M::kDiscard: return Take<Discard>(reader, "discard", from->mutable_discard());
    case M::kResolve: return Take<Resolve>(reader, "resolve", from->mutable_resolve());
    case M::kVerdicts: return Take<Verdicts>(reader, "verdicts", from->mutable_verdicts());
    case M::kOpQuery: return Take<OpQuery>(reader, "op_query", from->mutable_op_query());
    case M::kOpQueryAnswer: return Take<OpQueryAnswer>(reader, "op_query_answer", from->mutable_op_query_answer());
    case M::kLookup: return Take<Lookup>(reader, "lookup", from->mutable_lookup());
    case M::kLookupAnswer: return Take<LookupAnswer>(reader, "lookup_answer", from->mutable_lookup_answer());
    case M::kHandoverAsk: return Take<HandoverAsk>(reader, "handover_ask", from->mutable_handover_ask());
    case M::kHandoverPart: return Take<HandoverPart>(reader, "handover_part", from->mutable_handover_part());
    case M::kAnnounceAsk: return Take<AnnounceAsk>(reader, "announce_ask", from->mutable_announce_ask());
    case M::kAnnouncePart: return Take<AnnouncePart>(reader, "announce_part", from->mutable_announce_part());
    case M::kPush: return Take<Push>(reader, "push", from->mutable_push());
    case M::kPushAck: return Take<PushAck>(reader, "push_ack", from->mutable_push_ack());
    case M::kActivated: return Take<Activated>(reader, "activated", from->mutable_activated());
    case M::kRefused: return Take<Refused>(reader, "refused", from->mutable_refused());
    case M::kPull: return Take<Pull>(reader, "pull", from->mutable_pull());
    case M::kPullDone: return Take<PullDone>(reader, "pull_done", from->mutable_pull_done());
    case M::kCollect: return Take<Collect>(reader, "collect", from->mutable_collect());
    case M::kCollectAck: return Take<CollectAck>(reader, "collect_ack", from->mutable_collect_ack());
    case M::kMove: return Take<Move>(reader, "move", from->mutable_move());
    case M::kMoveAnswer: return Take<MoveAnswer>(reader, "move_answer", from->mutable_move_answer());
    case M::kLetGo: return Take<LetGo>(reader, "let_go", from->mutable_let_go());
    case M::kLoadReport: return Take<LoadReport>(reader, "load_report", from->mutable_load_report());
    case M::KIND_NOT_SET: break;
  }
  return absl::UnimplementedError("kind: this node does not know it; it is of another version than the sender");
}

}  // namespace

absl::StatusOr<Message> Decode(std::string_view bytes, uint32_t partition_count) {
  if (bytes.size() > kMaxMessageBytes) {
    return absl::InvalidArgumentError(StrCat("message: has ", bytes.size(), " bytes; at most ", kMaxMessageBytes, " are allowed"));
  }
  alignas(8) char first_block[2048];  // a small message needs no other memory
  google::protobuf::ArenaOptions options;
  options.initial_block = first_block;
  options.initial_block_size = sizeof(first_block);
  google::protobuf::Arena arena(options);
  auto* const wire = google::protobuf::Arena::CreateMessage<pb::DirectoryMessage>(&arena);
  if (!wire->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::InvalidArgumentError("message: is no DirectoryMessage (proto/directory.proto)");
  }
  Reader reader(partition_count);
  return TakeAny(reader, wire);
}

}  // namespace penstock::server::directory
