// FieldReader: what all kinds of directory messages are made of, read from the wire and checked.
//
// Only wire_decode.cc uses it. It keeps what was wrong first; what is read after that counts no more.
//
// Threading:  one thread at a time
// Ownership:  moves texts out of the messages that it reads
// Errors:     status(): INVALID_ARGUMENT with the field
// Limits:     wire.h
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "directory.pb.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "server/directory/view.h"
#include "server/directory_link/wire.h"

namespace penstock::server::directory {

class FieldReader {
 public:
  explicit FieldReader(uint32_t partition_count) : partition_count_(partition_count) {}

  bool ok() const { return why_.empty(); }
  absl::Status status(std::string_view kind) const {
    if (ok()) return absl::OkStatus();
    return absl::InvalidArgumentError(StrCat(kind, ".", field_, ": ", why_));
  }

 protected:
  uint32_t partition_count() const { return partition_count_; }

  void Refuse(std::string_view field, std::string why) {
    if (!ok()) return;
    field_ = field;
    why_ = std::move(why);
  }

  // What `read` finds wrong is told as a part of `field`.
  template <class Function>
  void Within(std::string_view field, Function read) {
    if (!ok()) return;
    read();
    if (!ok()) field_ = StrCat(field, ".", field_);
  }

  static void Read(const v1::directory::Op& from, OpId* to) { *to = {from.session(), from.count()}; }
  static void Read(const v1::directory::Version& from, Version* to) { *to = {from.term(), from.number()}; }
  static void Read(const v1::directory::Stamp& from, Stamp* to) { *to = {from.term(), from.change()}; }
  static void Read(const v1::directory::HistoryFloor& from, HistoryFloor* to) {
    Read(from.stamp(), &to->stamp);
    to->number = from.number();
    to->lost_before = from.lost_before();
    to->loss_is_recent = from.loss_is_recent();
  }

  void ReadPartition(uint32_t from, Partition* to) {
    if (from >= partition_count_) Refuse("partition", StrCat(from, " is none of the ", partition_count_, " partitions"));
    *to = from;
  }

  template <class From>
  void ReadPartitions(const From& from, std::vector<Partition>* to) {
    if (static_cast<size_t>(from.size()) > partition_count_) {
      return Refuse("partitions", StrCat("has ", from.size(), " items; there are ", partition_count_, " partitions"));
    }
    const auto wrong = std::find_if(from.begin(), from.end(), [this](uint32_t p) { return p >= partition_count_; });
    if (wrong != from.end()) return Refuse("partitions", StrCat(*wrong, " is none of the ", partition_count_, " partitions"));
    to->assign(from.begin(), from.end());
  }

  void CheckName(std::string_view field, std::string_view name) {
    const absl::Status status = ValidateName(name);
    if (status.ok()) return;
    const std::string why(status.message());  // 'name: "..." is ...'
    Refuse(field, why.substr(why.find(' ') + 1));
  }

  void ReadName(std::string* from, std::string* to) {
    CheckName("name", *from);
    *to = std::move(*from);
  }

  void CheckPlace(Partition partition, std::string_view name) {
    if (!ok()) return;
    const Partition right = PartitionOf(name, partition_count_);
    if (right != partition) Refuse("name", StrCat("belongs to partition ", right, ", not to ", partition));
  }

  void ReadNameIn(uint32_t partition, std::string* from, Partition* to_partition, std::string* to_name) {
    ReadPartition(partition, to_partition);
    ReadName(from, to_name);
    CheckPlace(*to_partition, *to_name);
  }

  void ReadAfter(std::string* from, std::string* to) {
    if (!from->empty()) CheckName("after", *from);
    *to = std::move(*from);
  }

  // The wire's values are ours plus one.
  template <class From, class To>
  void ReadEnum(std::string_view field, From from, To last, To* to) {
    const int value = static_cast<int>(from);
    if (value < 1 || value > static_cast<int>(last) + 1) return Refuse(field, StrCat("has the unknown value ", value));
    *to = static_cast<To>(value - 1);
  }

  template <class From, class To>
  void ReadNodes(std::string_view field, const From& from, To* to) {
    if (static_cast<size_t>(from.size()) > kMaxHolders) {
      return Refuse(field, StrCat("has ", from.size(), " nodes; at most ", kMaxHolders, " are allowed"));
    }
    if (std::find(from.begin(), from.end(), NodeId{0}) != from.end()) return Refuse(field, "0 is no node");
    to->assign(from.begin(), from.end());
  }

  void ReadReason(Reason from, Reason* to) {
    if (from > kMostReason) Refuse("reason", StrCat(from, " is above ", kMostReason));
    *to = from;
  }

  // At most one for each of the nodes.
  template <class From>
  void ReadReasons(const From& from, size_t nodes, std::vector<Reason>* to) {
    if (static_cast<size_t>(from.size()) > nodes) return Refuse("reasons", StrCat("has ", from.size(), " items; there are ", nodes, " nodes"));
    const auto wrong = std::find_if(from.begin(), from.end(), [](Reason reason) { return reason > kMostReason; });
    if (wrong != from.end()) return Refuse("reasons", StrCat(*wrong, " is above ", kMostReason));
    to->assign(from.begin(), from.end());
  }

  // To a PutInfo, Entry or HeldRecord, all but the info's bytes.
  template <class To>
  void ReadFacts(const v1::directory::PutInfo& from, To* to) {
    if (from.replicas() < 1 || from.replicas() > 255) Refuse("info.replicas", StrCat(from.replicas(), " is not 1 .. 255"));
    if (from.info().size() > kMaxInfoBytes) {
      Refuse("info.info", StrCat("has ", from.info().size(), " bytes; at most ", kMaxInfoBytes, " are allowed"));
    }
    to->nbytes = from.nbytes();
    to->replicas = static_cast<uint8_t>(from.replicas());
    to->cache = from.cache();
  }

  void ReadInfo(v1::directory::PutInfo* from, PutInfo* to) {
    ReadFacts(*from, to);
    to->info = std::move(*from->mutable_info());
  }

  void ReadIn(Partition partition, v1::directory::Entry& from, Entry* to) {
    CheckName("name", from.name());
    CheckPlace(partition, from.name());
    Read(from.version(), &to->version);
    Read(from.stamp(), &to->stamp);
    Read(from.op(), &to->op);
    ReadFacts(from.info(), to);
    ReadNodes("holders", from.holders(), &to->holders);
    to->deleted = from.deleted();
    std::vector<Reason> reasons;
    ReadReasons(from.reasons(), to->holders.size(), &reasons);
    if (!ok()) return;
    to->SetText(from.name(), from.info().info());
    to->SetReasons(reasons);
  }

  void ReadIn(Partition partition, v1::directory::Record& from, HeldRecord* to) {
    ReadName(from.mutable_name(), &to->name);
    CheckPlace(partition, to->name);
    Read(from.op(), &to->op);
    Read(from.version(), &to->version);
    to->prepared_in = from.prepared_in();
    ReadEnum("state", from.state(), RecordState::kQuarantined, &to->state);
    ReadFacts(from.info(), to);
    to->info = std::move(*from.mutable_info()->mutable_info());
  }

  template <class From, class To, class Function>
  void ReadEach(std::string_view field, From* from, std::vector<To>* to, size_t limit, Function read) {
    if (!ok()) return;
    const auto count = static_cast<size_t>(from->size());
    if (count > limit) return Refuse(field, StrCat("has ", count, " items; at most ", limit, " are allowed"));
    to->resize(count);
    for (size_t i = 0; i < count; ++i) {
      read(*from->Mutable(static_cast<int>(i)), &(*to)[i]);
      if (ok()) continue;
      field_ = StrCat(field, "[", i, "].", field_);
      return;
    }
  }

  template <class From, class To>
  void ReadAllIn(Partition partition, std::string_view field, From* from, std::vector<To>* to) {
    ReadEach(field, from, to, kMaxListed, [this, partition](auto& item, To* out) { this->ReadIn(partition, item, out); });
  }

 private:
  const uint32_t partition_count_;
  std::string field_, why_;
};

}  // namespace penstock::server::directory
