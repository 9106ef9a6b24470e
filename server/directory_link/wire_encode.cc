#include <google/protobuf/arena.h>

#include <variant>

#include "directory.pb.h"
#include "server/directory_link/wire.h"

namespace penstock::server::directory {
namespace {

namespace pb = v1::directory;

// The enumerations there have one more value, 0: an absent field must not read as "committed" or "live".
template <class To, class From>
To WireEnum(From value) {
  return static_cast<To>(static_cast<int>(value) + 1);
}

void Write(const OpId& from, pb::Op* to) {
  to->set_session(from.session);
  to->set_count(from.count);
}

void Write(const Version& from, pb::Version* to) {
  to->set_term(from.term);
  to->set_number(from.number);
}

void Write(const Stamp& from, pb::Stamp* to) {
  to->set_term(from.term);
  to->set_change(from.change);
}

void Write(const PutInfo& from, pb::PutInfo* to) {
  to->set_nbytes(from.nbytes);
  to->set_replicas(from.replicas);
  to->set_cache(from.cache);
  to->set_info(from.info);
}

// What Entry and HeldRecord have of it as members of their own.
template <class Told>
void WriteInfo(const Told& from, std::string_view info, pb::PutInfo* to) {
  to->set_nbytes(from.nbytes);
  to->set_replicas(from.replicas);
  to->set_cache(from.cache);
  to->set_info(info.data(), info.size());
}

template <class Nodes, class Field>
void WriteNodes(const Nodes& from, Field* to) {
  to->Add(from.begin(), from.end());
}

void Write(const Entry& from, pb::Entry* to) {
  to->set_name(from.name().data(), from.name().size());
  Write(from.version, to->mutable_version());
  Write(from.stamp, to->mutable_stamp());
  Write(from.op, to->mutable_op());
  WriteInfo(from, from.info(), to->mutable_info());
  WriteNodes(from.holders, to->mutable_holders());
  to->set_deleted(from.deleted);
  for (size_t i = 0; i < from.reasons; ++i) to->add_reasons(from.WhyHolder(i));
}

void Write(const HeldRecord& from, pb::Record* to) {
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
  Write(from.version, to->mutable_version());
  to->set_prepared_in(from.prepared_in);
  to->set_state(WireEnum<pb::RecordState>(from.state));
  WriteInfo(from, from.info, to->mutable_info());
}

void Write(const HistoryFloor& from, pb::HistoryFloor* to) {
  Write(from.stamp, to->mutable_stamp());
  to->set_number(from.number);
  to->set_lost_before(from.lost_before);
  to->set_loss_is_recent(from.loss_is_recent);
}

// ---- items of lists ----

void Write(const ResolveItem& from, pb::ResolveItem* to) {
  to->set_partition(from.partition);
  to->set_term(from.term);
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
  Write(from.version, to->mutable_version());
  to->set_prepared_in(from.prepared_in);
  to->set_question(from.question);
  to->set_leaving(from.leaving);
  to->set_evicting(from.evicting);
  to->set_damaged(from.damaged);
  to->set_reason(from.reason);
}

void Write(const Verdict& from, pb::Verdict* to) {
  to->set_partition(from.partition);
  to->set_term(from.term);
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
  to->set_question(from.question);
  to->set_kind(WireEnum<pb::VerdictKind>(from.kind));
  Write(from.version, to->mutable_version());
}

void Write(const LookupItem& from, pb::LookupItem* to) {
  to->set_index(from.index);
  to->set_name(from.name);
}

void Write(const LookupAnswerItem& from, pb::LookupAnswerItem* to) {
  to->set_index(from.index);
  pb::LookupResult* const result = to->mutable_result();
  result->set_status(WireEnum<pb::LookupStatus>(from.result.status));
  Write(from.result.version, result->mutable_version());
  Write(from.result.op, result->mutable_op());
  Write(from.result.info, result->mutable_info());
  WriteNodes(from.result.holders, result->mutable_holders());
  WriteNodes(from.result.reasons, result->mutable_reasons());
}

void Write(const HandoverItem& from, pb::HandoverItem* to) {
  to->set_partition(from.partition);
  to->set_base(from.base);
}

template <class List, class Field>
void WriteAll(const List& from, Field* to) {
  to->Reserve(static_cast<int>(from.size()));
  for (const auto& item : from) Write(item, to->Add());
}

// ---- a put ----

void Write(const Conditions& from, pb::Conditions* to) {
  to->set_if_absent(from.if_absent);
  to->set_if_version(from.if_version);
  to->set_version(from.version);
}

void Write(const Propose& from, pb::Propose* to) {
  Write(from.op, to->mutable_op());
  to->set_term(from.term);
  to->set_first_term(from.first_term);
  to->set_since(from.since);
  to->set_finished_below(from.finished_below);
  to->set_remove(from.remove);
  to->set_name(from.name);
  Write(from.conditions, to->mutable_conditions());
  Write(from.info, to->mutable_info());
  WriteNodes(from.holders, to->mutable_holders());
  WriteNodes(from.reasons, to->mutable_reasons());
}

void Write(const ProposeAnswer& from, pb::ProposeAnswer* to) {
  Write(from.op, to->mutable_op());
  to->set_partition(from.partition);
  to->set_term(from.term);
  to->set_outcome(WireEnum<pb::Outcome>(from.outcome));
  Write(from.version, to->mutable_version());
  to->set_held(from.held);
}

void Write(const Supersede& from, pb::Supersede* to) {
  to->set_partition(from.partition);
  to->set_term(from.term);
  to->set_run(from.run);
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
  Write(from.version, to->mutable_version());
}

void Write(const Recall& from, pb::Recall* to) {
  to->set_run(from.run);
  to->set_name(from.name);
}

void Write(const RunAck& from, pb::RunAck* to) {
  to->set_run(from.run);
  to->set_name(from.name);
  to->set_superseded(from.superseded);
}

void Write(const Replicate& from, pb::Replicate* to) {
  to->set_partition(from.partition);
  to->set_term(from.term);
  Write(from.entry, to->mutable_entry());
}

void Write(const ReplicateAck& from, pb::ReplicateAck* to) {
  to->set_partition(from.partition);
  to->set_term(from.term);
  Write(from.stamp, to->mutable_stamp());
  to->set_name(from.name);
}

void Write(const Committed& from, pb::Committed* to) {
  to->set_partition(from.partition);
  to->set_term(from.term);
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
  Write(from.version, to->mutable_version());
}

void Write(const Drop& from, pb::Drop* to) {
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
  Write(from.version, to->mutable_version());
}

void Write(const Discard& from, pb::Discard* to) {
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
}

// ---- records that are not settled ----

void Write(const Resolve& from, pb::Resolve* to) {
  to->set_session(from.session);
  to->set_sequence(from.sequence);
  WriteAll(from.items, to->mutable_items());
}

void Write(const Verdicts& from, pb::Verdicts* to) { WriteAll(from.items, to->mutable_items()); }

void Write(const OpQuery& from, pb::OpQuery* to) {
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
}

void Write(const OpQueryAnswer& from, pb::OpQueryAnswer* to) {
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
  to->set_open(from.open);
}

// ---- reads ----

void Write(const Lookup& from, pb::Lookup* to) {
  to->set_request(from.request);
  to->set_lease(from.lease);
  WriteAll(from.names, to->mutable_names());
}

void Write(const LookupAnswer& from, pb::LookupAnswer* to) {
  to->set_request(from.request);
  WriteAll(from.items, to->mutable_items());
}

// ---- a partition gets a new home ----

void Write(const HandoverAsk& from, pb::HandoverAsk* to) {
  to->set_view(from.view);
  WriteAll(from.items, to->mutable_items());
  to->set_after(from.after);
}

void Write(const HandoverPart& from, pb::HandoverPart* to) {
  to->set_view(from.view);
  to->set_partition(from.partition);
  to->set_complete(from.complete);
  to->set_last(from.last);
  to->set_cut(from.cut);
  to->set_after(from.after);
  Write(from.floor, to->mutable_floor());
  WriteAll(from.entries, to->mutable_entries());
}

void Write(const AnnounceAsk& from, pb::AnnounceAsk* to) {
  to->set_view(from.view);
  to->set_since(from.since);
  to->mutable_partitions()->Add(from.partitions.begin(), from.partitions.end());
  to->set_after(from.after);
}

void Write(const AnnouncePart& from, pb::AnnouncePart* to) {
  to->set_view(from.view);
  to->set_partition(from.partition);
  to->set_last(from.last);
  to->set_cut(from.cut);
  to->set_after(from.after);
  WriteAll(from.records, to->mutable_records());
}

void Write(const Push& from, pb::Push* to) {
  to->set_view(from.view);
  to->set_partition(from.partition);
  to->set_base(from.base);
  to->set_chunk(from.chunk);
  to->set_last(from.last);
  Write(from.floor, to->mutable_floor());
  WriteAll(from.entries, to->mutable_entries());
}

void Write(const PushAck& from, pb::PushAck* to) {
  to->set_view(from.view);
  to->set_partition(from.partition);
  to->set_chunk(from.chunk);
}

void Write(const Activated& from, pb::Activated* to) {
  to->set_term(from.term);
  to->mutable_partitions()->Add(from.partitions.begin(), from.partitions.end());
}

void Write(const Refused& from, pb::Refused* to) {
  to->set_partition(from.partition);
  to->set_promised(from.promised);
}

// ---- copies, tombstones ----

void Write(const Pull& from, pb::Pull* to) {
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
  Write(from.version, to->mutable_version());
  to->set_view(from.view);
  Write(from.info, to->mutable_info());
  WriteNodes(from.from, to->mutable_from());
  to->set_reason(from.reason);
  to->set_offer(from.offer);
}

void Write(const PullDone& from, pb::PullDone* to) {
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
  to->set_ok(from.ok);
  to->set_going(from.going);
  to->set_busy(from.busy);
}

void Write(const Move& from, pb::Move* to) {
  to->set_request(from.request);
  to->set_name(from.name);
  to->set_to(from.to);
  to->set_copy(from.copy);
}

void Write(const MoveAnswer& from, pb::MoveAnswer* to) {
  to->set_request(from.request);
  to->set_outcome(WireEnum<pb::MoveOutcome>(from.outcome));
  to->set_from(from.from);
  to->set_bytes(from.bytes);
}

void Write(const LoadReport& from, pb::LoadReport* to) {
  to->set_free_bytes(from.free_bytes);
  to->set_total_bytes(from.total_bytes);
  to->set_busy_percent(from.busy_percent);
}

void Write(const LetGo& from, pb::LetGo* to) {
  to->set_name(from.name);
  Write(from.op, to->mutable_op());
}

void Write(const Collect& from, pb::Collect* to) {
  to->set_partition(from.partition);
  to->set_term(from.term);
  Write(from.upto, to->mutable_upto());
}

void Write(const CollectAck& from, pb::CollectAck* to) {
  to->set_partition(from.partition);
  to->set_term(from.term);
  Write(from.upto, to->mutable_upto());
}

// Each kind has its place.
struct Place {
  pb::DirectoryMessage* to;
  void operator()(const Propose& m) { Write(m, to->mutable_propose()); }
  void operator()(const ProposeAnswer& m) { Write(m, to->mutable_propose_answer()); }
  void operator()(const Supersede& m) { Write(m, to->mutable_supersede()); }
  void operator()(const Recall& m) { Write(m, to->mutable_recall()); }
  void operator()(const RunAck& m) { Write(m, to->mutable_run_ack()); }
  void operator()(const Replicate& m) { Write(m, to->mutable_replicate()); }
  void operator()(const ReplicateAck& m) { Write(m, to->mutable_replicate_ack()); }
  void operator()(const Committed& m) { Write(m, to->mutable_committed()); }
  void operator()(const Drop& m) { Write(m, to->mutable_drop()); }
  void operator()(const Discard& m) { Write(m, to->mutable_discard()); }
  void operator()(const Resolve& m) { Write(m, to->mutable_resolve()); }
  void operator()(const Verdicts& m) { Write(m, to->mutable_verdicts()); }
  void operator()(const OpQuery& m) { Write(m, to->mutable_op_query()); }
  void operator()(const OpQueryAnswer& m) { Write(m, to->mutable_op_query_answer()); }
  void operator()(const Lookup& m) { Write(m, to->mutable_lookup()); }
  void operator()(const LookupAnswer& m) { Write(m, to->mutable_lookup_answer()); }
  void operator()(const HandoverAsk& m) { Write(m, to->mutable_handover_ask()); }
  void operator()(const HandoverPart& m) { Write(m, to->mutable_handover_part()); }
  void operator()(const AnnounceAsk& m) { Write(m, to->mutable_announce_ask()); }
  void operator()(const AnnouncePart& m) { Write(m, to->mutable_announce_part()); }
  void operator()(const Push& m) { Write(m, to->mutable_push()); }
  void operator()(const PushAck& m) { Write(m, to->mutable_push_ack()); }
  void operator()(const Activated& m) { Write(m, to->mutable_activated()); }
  void operator()(const Refused& m) { Write(m, to->mutable_refused()); }
  void operator()(const Pull& m) { Write(m, to->mutable_pull()); }
  void operator()(const PullDone& m) { Write(m, to->mutable_pull_done()); }
  void operator()(const Collect& m) { Write(m, to->mutable_collect()); }
  void operator()(const CollectAck& m) { Write(m, to->mutable_collect_ack()); }
  void operator()(const Move& m) { Write(m, to->mutable_move()); }
  void operator()(const MoveAnswer& m) { Write(m, to->mutable_move_answer()); }
  void operator()(const LetGo& m) { Write(m, to->mutable_let_go()); }
  void operator()(const LoadReport& m) { Write(m, to->mutable_load_report()); }
};

}  // namespace

std::string Encode(const Message& message) {
  alignas(8) char first_block[2048];  // a small message needs no other memory
  google::protobuf::ArenaOptions options;
  options.initial_block = first_block;
  options.initial_block_size = sizeof(first_block);
  google::protobuf::Arena arena(options);
  auto* const wire = google::protobuf::Arena::CreateMessage<pb::DirectoryMessage>(&arena);
  std::visit(Place{wire}, message);
  return wire->SerializeAsString();
}

bool IsBulk(const Message& message) {
  return std::holds_alternative<HandoverPart>(message) || std::holds_alternative<AnnouncePart>(message) ||
         std::holds_alternative<Push>(message);
}

}  // namespace penstock::server::directory
