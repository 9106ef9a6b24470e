// Client: PutShard. proto/shards.proto tells what lies where, and why a tensor is published once.
//
// A shard is put, bound to the session, and then the index takes it in: one swap. Who finds that only his own is missing copies the
// others' and his into a draft of the whole, so there is no state in which a tensor is complete and nobody is about to publish it: if he
// dies, his box is still missing, and whoever puts it next completes it.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>

#include "client/connection.h"
#include "client/index_tensor.h"
#include "client/part.h"
#include "client/put_spec.h"
#include "client/shards/assembly.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "transport/copy/copy.h"
#include "transport/fault_point.h"

namespace penstock {
namespace {

using client::Assembly;
using client::ShardSpec;
using v1::ShardIndex;

constexpr int kMostTries = 1000;                            // each that fails is an act of somebody else's
constexpr absl::Duration kLongestElsewhere = absl::Hours(1);  // of a shard that no session's end deletes
constexpr size_t kNamesAtOnce = 256;
constexpr int kCopyThreads = 4;
constexpr uint64_t kParallelBytes = uint64_t{16} << 20;

std::string ShardName(const std::string& id) { return StrCat(".penstock/shard/", id); }

absl::Status LeftAlone() { return absl::CancelledError("the index stays as it is"); }

class ShardPut {
 public:
  ShardPut(Client* client, std::string_view name, const ConstTensorRef& local, const ShardPlace& place, const PutOptions& options)
      : client_(*client),
        name_(name),
        local_(local),
        spec_{.dtype = local.dtype, .whole = place.whole, .box = {.offset = place.offset, .extent = Dims(local.shape.dims())}, .options = options},
        index_(*client, StrCat(kOneHomeFolder, name), StrCat("shards of '", name, "'")) {}

  absl::StatusOr<std::optional<TensorInfo>> Run() {
    if (absl::Status s = Check(); !s.ok()) return s;
    if (spec_.box.empty() && spec_.whole.num_elements() > 0) return std::nullopt;  // no part of it
    const absl::StatusOr<std::string> session = index_.names().BoundSessionName();
    if (!session.ok()) return session.status();
    session_ = *session;
    const absl::Status done = PutOrComplete();
    if (!mine_.empty() && !added_) DeleteShard(mine_);
    if (!done.ok()) return done;
    return std::move(published_);
  }

 private:
  enum class Step { kDone, kAdd, kComplete, kAgain };

  absl::Status Check() const {
    if (absl::Status s = ValidateUserName(name_); !s.ok()) return s;
    if (index_.name().size() > kMaxNameBytes) {
      return absl::InvalidArgumentError(StrCat("name: of ", name_.size(), " bytes; of tensors that are put in shards it has at most ", kMaxNameBytes - kOneHomeFolder.size()));
    }
    const PutOptions& options = spec_.options;
    if (options.if_absent || options.if_version) return absl::InvalidArgumentError("if_absent, if_version: are not for shards; give version");
    if (options.replicas != 1) return absl::InvalidArgumentError(StrCat("replicas: is ", options.replicas, "; allowed for shards is 1"));
    if (const auto terms = client::PutTerms::Check(options); !terms.ok()) return terms.status();
    if (const auto bytes = ByteSize(spec_.dtype, spec_.whole); !bytes.ok()) return bytes.status();
    return CheckPlace();
  }

  absl::Status CheckPlace() const {
    const Shape& whole = spec_.whole;
    if (spec_.box.offset.rank() != whole.rank()) {
      return absl::InvalidArgumentError(StrCat("offset: has ", spec_.box.offset.rank(), " numbers for a global_shape of rank ", whole.rank()));
    }
    if (local_.shape.rank() != whole.rank()) {
      return absl::InvalidArgumentError(StrCat("local: has shape ", local_.shape.ToString(), ", of another rank than global_shape, ", whole.ToString()));
    }
    if (absl::Status s = ValidateBox(spec_.box, whole); !s.ok()) return absl::InvalidArgumentError(StrCat("offset: the shard is not inside the whole: ", s.message()));
    const absl::StatusOr<uint64_t> bytes = ByteSize(spec_.dtype, local_.shape);
    if (!bytes.ok()) return bytes.status();
    if (ItemSize(spec_.dtype) == 0 && !spec_.box.IsWhole(whole)) {
      return absl::InvalidArgumentError(StrCat("local: elements of dtype ", DTypeName(spec_.dtype), " are not whole bytes; put the tensor whole"));
    }
    return client::CheckSource(local_, *bytes);
  }

  absl::Status PutOrComplete() {
    for (int i = 0; i < kMostTries; ++i) {
      absl::StatusOr<Step> step = Join();
      if (step.ok() && *step == Step::kComplete) step = seen_.boxes().empty() ? PutWhole() : Complete();
      if (!step.ok()) return step.status();
      if (*step == Step::kDone) return absl::OkStatus();
    }
    return absl::AbortedError(StrCat("name: the shards of '", name_, "' changed whenever they were looked at; try again"));
  }

  // Takes the shard into the index, unless something else is to be done.
  absl::StatusOr<Step> Join() {
    absl::StatusOr<Step> step = Step::kAgain;
    const absl::Status swapped = index_.Update([&](ShardIndex& index) {
      step = Consider(index);
      return step.ok() && *step == Step::kAdd ? absl::OkStatus() : LeftAlone();
    });
    if (absl::IsCancelled(swapped)) return step;
    if (absl::IsAborted(swapped)) return Step::kAgain;
    if (!swapped.ok()) return swapped;
    added_ = true;
    PENSTOCK_FAULT_POINT("client.shards.added");
    if (spec_.options.version != 0) ForgetIfLate();
    return Step::kDone;
  }

  absl::StatusOr<Step> Consider(ShardIndex& index) {
    const absl::StatusOr<uint64_t> present = PresentVersion();
    if (!present.ok()) return present.status();
    if (const auto tidied = Tidy(index, *present); !tidied.ok()) return tidied.status();
    const uint64_t version = spec_.options.version;
    if (version != 0 && *present == version) return Step::kDone;  // a replica that comes late
    if (version != 0 && *present > version) {
      return absl::AbortedError(StrCat("version: ", version, " is not larger than ", *present, ", the present one of '", name_, "'"));
    }
    Assembly* assembly = client::Find(index, version);
    seen_ = assembly != nullptr ? *assembly : client::Begin(spec_);
    if (absl::Status s = client::CheckAgrees(spec_, seen_); !s.ok()) return s;
    const absl::StatusOr<const ShardIndex::Box*> same = client::Meet(seen_, spec_.box);
    if (!same.ok()) return same.status();
    if (*same != nullptr) return Repeats(**same);
    if (client::Covers(seen_, spec_.box)) return Step::kComplete;
    if (absl::Status s = PutMine(); !s.ok()) return s;
    if (assembly == nullptr) *(assembly = index.add_assemblies()) = seen_;
    client::Add(spec_.box, mine_, session_, assembly);
    return Step::kAdd;
  }

  // The box is there already. A version says that it is the same round; else it must be, whatever that is, the same.
  absl::StatusOr<Step> Repeats(const ShardIndex::Box& other) {
    if (spec_.options.version != 0) return Step::kDone;
    if (other.session() == session_) {
      return absl::AbortedError(StrCat("offset: this session has put [", spec_.box.ToString(), "] already, and ", client::Text(client::MissingWith(seen_, spec_.box)),
                                       " of '", name_, "' is missing yet; wait until it is there, or tell rounds apart by version"));
    }
    const absl::StatusOr<TensorView> view = client_.Get(ShardName(other.id()));
    if (absl::IsNotFound(view.status())) return Step::kAgain;
    if (!view.ok()) return view.status();
    std::vector<char> dense(view->nbytes());
    if (absl::Status s = client::Gather(local_, dense.size(), dense.data()); !s.ok()) return s;
    if (std::memcmp(dense.data(), view->data(), dense.size()) == 0) return Step::kDone;
    return absl::AbortedError(StrCat("local: differs from [", spec_.box.ToString(), "] of '", name_, "' as another session has put it, and ",
                                     client::Text(client::MissingWith(seen_, spec_.box)), " is missing yet; if it is of another round, tell rounds apart by version"));
  }

  absl::Status PutMine() {
    if (!mine_.empty()) return absl::OkStatus();
    const std::string id = client::NewId();
    const std::string name = ShardName(id);
    const PutRequest request{name, local_};
    size_t failed = 0;
    if (absl::Status s = index_.names().PutBound({&request, 1}, &failed, kLongestElsewhere); !s.ok()) return s;
    mine_ = id;
    PENSTOCK_FAULT_POINT("client.shards.put");
    return absl::OkStatus();
  }

  void DeleteShard(const std::string& id) { index_.names().DeleteVersion(ShardName(id), 0); }

  absl::StatusOr<uint64_t> PresentVersion() {
    const absl::StatusOr<TensorInfo> info = client_.Stat(name_);
    if (absl::IsNotFound(info.status())) return 0;
    if (!info.ok()) return info.status();
    return info->version.number;
  }

  // Takes out what is over, deleting its shards, and the boxes whose shards have gone with their sessions. Whether there was any.
  absl::StatusOr<bool> Tidy(ShardIndex& index, uint64_t present) {
    bool changed = false;
    for (int i = index.assemblies_size() - 1; i >= 0; --i) {
      if (!client::IsOver(index.assemblies(i), present)) continue;
      for (const ShardIndex::Box& box : index.assemblies(i).boxes()) DeleteShard(box.id());
      PENSTOCK_FAULT_POINT("client.shards.deleted");
      index.mutable_assemblies()->DeleteSubrange(i, 1);
      changed = true;
    }
    const absl::StatusOr<std::vector<std::string>> gone = GoneShards(index);
    if (!gone.ok()) return gone.status();
    if (gone->empty()) return changed;
    client::Remove(*gone, &index);
    return true;
  }

  // Ids.
  absl::StatusOr<std::vector<std::string>> GoneShards(const ShardIndex& index) {
    std::vector<std::string> ids, names, gone;
    for (const Assembly& assembly : index.assemblies()) {
      for (const ShardIndex::Box& box : assembly.boxes()) ids.push_back(box.id());
    }
    for (const std::string& id : ids) names.push_back(ShardName(id));
    for (size_t at = 0; at < names.size();) {
      const size_t count = std::min(kNamesAtOnce, names.size() - at);
      const absl::StatusOr<uint32_t> there = client_.LongestPrefix(absl::MakeConstSpan(names).subspan(at, count));
      if (!there.ok()) return there.status();
      at += *there;
      if (*there < count) gone.push_back(ids[at++]);
    }
    return gone;
  }

  absl::StatusOr<Step> PutWhole() {
    const bool nothing = spec_.whole.num_elements() == 0;
    absl::StatusOr<TensorInfo> info = client_.Put(name_, nothing ? ConstTensorRef{.data = nullptr, .dtype = spec_.dtype, .shape = spec_.whole, .strides = {}} : local_, spec_.options);
    if (absl::IsAborted(info.status())) return RefusedVersion(info.status());
    if (!info.ok()) return info.status();
    published_ = *std::move(info);
    return Step::kDone;
  }

  absl::StatusOr<Step> Complete() {
    const absl::StatusOr<uint64_t> present = PresentVersion();
    if (!present.ok()) return present.status();
    PutOptions options = spec_.options;
    if (unnumbered_) {
      options.if_version = 0;
    } else if (options.version == 0) {
      options.version = std::max(seen_.number(), *present + 1);
    }
    absl::StatusOr<Draft> draft = client_.Create(name_, spec_.dtype, spec_.whole, options);
    if (absl::IsAborted(draft.status())) return Refused(draft.status(), *present, /*numbered=*/false);
    if (!draft.ok()) return draft.status();
    const absl::Status filled = Fill(*draft);
    if (absl::IsNotFound(filled)) return Again(*present);  // a session has ended meanwhile, or a replica was faster
    if (!filled.ok()) return filled;
    PENSTOCK_FAULT_POINT("client.shards.filled");
    if (spec_.options.version == 0) {
      const absl::StatusOr<bool> numbered = WriteNumber(unnumbered_ ? client::kAnyNumber : options.version);
      if (!numbered.ok()) return numbered.status();
      if (!*numbered) return Again(*present);
    }
    PENSTOCK_FAULT_POINT("client.shards.numbered");
    absl::StatusOr<TensorInfo> info = std::move(*draft).Publish();
    if (absl::IsAborted(info.status())) return Refused(info.status(), *present, /*numbered=*/true);
    if (!info.ok()) return info.status();
    published_ = *std::move(info);
    PENSTOCK_FAULT_POINT("client.shards.published");
    Forget();
    return Step::kDone;
  }

  // The version was taken. `numbered`: after the index said that it is this assembly's. Then a replica was faster, or a put of the whole,
  // which is the later one; unless the name is absent and had that version before.
  absl::StatusOr<Step> Refused(const absl::Status& why, uint64_t before, bool numbered) {
    if (spec_.options.version != 0) return RefusedVersion(why);
    const absl::StatusOr<uint64_t> present = PresentVersion();
    if (!present.ok()) return present.status();
    if (*present == 0 && !unnumbered_) {
      unnumbered_ = true;
      return Step::kAgain;
    }
    if (!numbered) return Again(before);
    Forget();
    return Step::kDone;
  }

  absl::StatusOr<Step> RefusedVersion(const absl::Status& why) {
    const absl::StatusOr<uint64_t> present = PresentVersion();
    if (!present.ok()) return present.status();
    if (*present < spec_.options.version) return why;  // the name was deleted, and had it before
    return Step::kAgain;
  }

  // Something has changed since the name had version `before`. If a replica has completed what this shard is for, it is no shard of the
  // next round.
  absl::StatusOr<Step> Again(uint64_t before) {
    if (spec_.options.version != 0) return Step::kAgain;
    const absl::StatusOr<uint64_t> present = PresentVersion();
    if (!present.ok()) return present.status();
    absl::StatusOr<client::IndexTensor<ShardIndex>::Present> now = index_.Read();
    if (!now.ok()) return now.status();
    const Assembly* assembly = client::Find(now->index, 0);
    const bool there = assembly != nullptr && client::SharesBoxes(*assembly, seen_);
    return *present > before && !there ? Step::kDone : Step::kAgain;
  }

  // Into the index: what it is published as. False: the assembly is not what it was.
  absl::StatusOr<bool> WriteNumber(uint64_t number) {
    const absl::Status swapped = index_.Update([&](ShardIndex& index) {
      Assembly* assembly = client::Find(index, 0);
      if (assembly == nullptr || !client::HasSameBoxes(*assembly, seen_)) return LeftAlone();
      assembly->set_number(number);
      return absl::OkStatus();
    });
    if (absl::IsCancelled(swapped) || absl::IsAborted(swapped)) return false;
    if (!swapped.ok()) return swapped;
    return true;
  }

  // A replica may have completed the tensor, and swept, between the look at its version and the swap: then nobody waits for this shard.
  void ForgetIfLate() {
    const absl::StatusOr<uint64_t> present = PresentVersion();
    if (present.ok() && *present >= spec_.options.version) Forget();
  }

  // What fails here, the next put of a shard does.
  void Forget() {
    const absl::Status swapped = index_.Update([&](ShardIndex& index) {
      const absl::StatusOr<uint64_t> present = PresentVersion();
      if (!present.ok()) return present.status();
      const absl::StatusOr<bool> tidied = Tidy(index, *present);
      if (!tidied.ok()) return tidied.status();
      return *tidied ? absl::OkStatus() : LeftAlone();
    });
    if (swapped.ok()) index_.DeleteIfEmpty();
  }

  absl::Status Fill(const Draft& draft) {
    std::vector<absl::Status> results(static_cast<size_t>(seen_.boxes_size()));
    std::atomic<size_t> next{0};
    const auto copy = [&] {
      for (size_t i = next++; i < results.size(); i = next++) results[i] = CopyOther(seen_.boxes(static_cast<int>(i)), draft);
    };
    std::vector<std::thread> others;
    const int threads = draft.nbytes() < kParallelBytes ? 1 : std::min(kCopyThreads, seen_.boxes_size());
    for (int i = 1; i < threads; ++i) others.emplace_back(copy);
    const Strides dense = ContiguousStrides(spec_.dtype, local_.shape);
    absl::Status mine = CopyBox(spec_.box, local_.data, local_.strides.empty() ? absl::MakeConstSpan(dense.span()) : absl::MakeConstSpan(local_.strides), draft);
    copy();
    for (std::thread& other : others) other.join();
    for (const absl::Status& status : results) mine.Update(status);
    return mine;
  }

  // What is one piece of the whole comes straight into it, from another node too.
  absl::Status CopyOther(const ShardIndex::Box& other, const Draft& draft) {
    const Box box = client::BoxOf(other);
    const std::string name = ShardName(other.id());
    const auto check = [&](DType dtype, const Shape& shape) {
      return dtype == spec_.dtype && shape == box.shape() ? absl::OkStatus() : absl::DataLossError(StrCat("'", name, "' is not the shard that it should be"));
    };
    if (box.IsContiguousIn(spec_.whole)) {
      const uint64_t bytes = ByteSize(spec_.dtype, box.shape()).value_or(0);
      const Part part = client::PartOf(box, spec_.dtype, spec_.whole);
      GetOptions options;
      options.check = check;
      return client_.ReadInto(name, static_cast<char*>(draft.data()) + part.offset_bytes, bytes, options).status();
    }
    const absl::StatusOr<TensorView> view = client_.Get(name);
    if (!view.ok()) return view.status();
    if (absl::Status s = check(view->dtype(), view->shape()); !s.ok()) return s;
    return CopyBox(box, view->data(), view->strides(), draft);
  }

  absl::Status CopyBox(const Box& box, const void* data, absl::Span<const int64_t> strides, const Draft& draft) const {
    const Part part = client::PartOf(box, spec_.dtype, spec_.whole);
    return CopyStrided({.dst = static_cast<char*>(draft.data()) + part.offset_bytes,
                        .src = data,
                        .shape = part.shape.dims(),
                        .dst_strides = part.strides,
                        .src_strides = strides,
                        .itemsize = ItemSize(spec_.dtype)});
  }

  Client& client_;
  const std::string_view name_;
  const ConstTensorRef& local_;
  const ShardSpec spec_;
  client::IndexTensor<ShardIndex> index_;
  std::string session_;
  std::string mine_;         // id of the own shard; empty: not put
  bool added_ = false;       // the index has it
  bool unnumbered_ = false;  // the name is absent and had versions that are not known
  Assembly seen_;            // that this shard is for, as it was
  std::optional<TensorInfo> published_;
};

}  // namespace

absl::StatusOr<std::optional<TensorInfo>> Client::PutShard(std::string_view name, const ConstTensorRef& local, const ShardPlace& place, const PutOptions& options) {
  return ShardPut(this, name, local, place, options).Run();
}

}  // namespace penstock
