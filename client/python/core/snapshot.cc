#include "client/python/core/snapshot.h"

#include <penstock/snapshot.h>

#include <utility>
#include <vector>

#include "client/python/core/incoming.h"
#include "client/python/core/info.h"
#include "client/python/core/numpy_dtypes.h"
#include "client/python/core/options.h"
#include "client/python/core/raise.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;
using nb::literals::operator""_a;

nb::object Numbers(absl::Span<const int64_t> numbers) {
  nb::object tuple = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(numbers.size())));
  for (size_t i = 0; i < numbers.size(); ++i) PyTuple_SET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(i), PyLong_FromLongLong(numbers[i]));
  return tuple;
}

// (number, id, created, nbytes, tensors, pinned, metadata)
nb::object InfoTuple(const SnapshotInfo& info) {
  nb::dict metadata;
  for (const auto& [key, value] : info.metadata) metadata[TextObject(key)] = TextObject(value);
  return nb::make_tuple(info.number, TextObject(info.id), absl::ToDoubleSeconds(info.created - absl::UnixEpoch()), info.nbytes, info.tensors, info.pinned, metadata);
}

// (key, dtype, shape, [(name, offset, extent)])
nb::object TensorTuple(const SnapshotTensor& tensor) {
  nb::list shards;
  for (const SnapshotShard& shard : tensor.shards) {
    shards.append(nb::make_tuple(TextObject(shard.name), Numbers(shard.box.offset.span()), Numbers(shard.box.extent.span())));
  }
  return nb::make_tuple(TextObject(tensor.key), nb::steal(DTypeString(tensor.dtype)), Numbers(tensor.shape.dims()), shards);
}

template <class F>
auto Unlocked(F call) {
  WithoutGil without_gil;
  return call();
}

SnapshotWriter::Staged StagedArgument(PyObject* stage, PyObject* number) {
  return {.id = TextArgument(stage, "stage"), .number = static_cast<uint32_t>(CountArgument(nb::borrow(number), "number", 0).value_or(0))};
}

class SnapshotStageObject {
 public:
  SnapshotStageObject(std::shared_ptr<Client> client, std::unique_ptr<SnapshotStage> stage) : client_(std::move(client)), stage_(std::move(stage)) {}
  ~SnapshotStageObject() {
    WithoutGil without_gil;
    stage_.reset();
  }

  uint64_t PutMany(nb::list list) {
    const size_t count = list.size();
    std::vector<Incoming> incoming(count);
    std::vector<ConstTensorRef> tensors;
    for (size_t i = 0; i < count; ++i) {
      if (!incoming[i].Read(PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)), "tensor")) ThrowPythonError();
      tensors.push_back(incoming[i].ref());
    }
    const absl::StatusOr<uint32_t> first = Unlocked([&] { return stage_->PutMany(tensors); });
    if (!first.ok()) ThrowStatus(first.status());
    return *first;
  }

  nb::object id() const { return TextObject(stage_->id()); }
  nb::object Name(nb::object number) const { return TextObject(stage_->Name(static_cast<uint32_t>(CountArgument(number, "number", 0).value_or(0)))); }

  void Drop() {
    Unlocked([&] {
      stage_->Drop();
      return 0;
    });
  }

 private:
  const std::shared_ptr<Client> client_;
  std::unique_ptr<SnapshotStage> stage_;
};

class SnapshotWriterObject {
 public:
  SnapshotWriterObject(std::shared_ptr<Client> client, std::unique_ptr<SnapshotWriter> writer) : client_(std::move(client)), writer_(std::move(writer)) {}
  ~SnapshotWriterObject() {
    WithoutGil without_gil;
    writer_.reset();
  }

  // items: list of (key, tensor), (key, tensor, offset, shape of the whole), or that, offset and shape maybe None, and (stage, number)
  void PutMany(nb::list list) {
    const size_t count = list.size();
    std::vector<Incoming> incoming(count);
    std::vector<SnapshotWriter::Item> items(count);
    for (size_t i = 0; i < count; ++i) {
      PyObject* tuple = PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i));
      const Py_ssize_t size = PyTuple_Check(tuple) ? PyTuple_GET_SIZE(tuple) : 0;
      if (size != 2 && size != 4 && size != 6) {
        SetTypeError("items: must be tuples (key, tensor), (key, tensor, offset, shape) or (key, tensor, offset, shape, stage, number)");
        ThrowPythonError();
      }
      items[i].key = TextArgument(PyTuple_GET_ITEM(tuple, 0), "key");
      if (!incoming[i].Read(PyTuple_GET_ITEM(tuple, 1), "tensor")) ThrowPythonError();
      items[i].tensor = incoming[i].ref();
      if (size == 6) items[i].staged = StagedArgument(PyTuple_GET_ITEM(tuple, 4), PyTuple_GET_ITEM(tuple, 5));
      if (size == 2 || PyTuple_GET_ITEM(tuple, 2) == Py_None) continue;
      items[i].whole = ShapeArgument(PyTuple_GET_ITEM(tuple, 3), "global_shape");
      items[i].box = Box{.offset = DimsArgument(PyTuple_GET_ITEM(tuple, 2), "offset"), .extent = Dims(items[i].tensor.shape.dims())};
    }
    const absl::Status status = Unlocked([&] { return writer_->PutMany(items); });
    if (!status.ok()) ThrowStatus(status);
  }

  nb::object id() const { return TextObject(writer_->id()); }

  void SetDocument(nb::object text) { writer_->SetDocument(std::string(TextArgument(text, "document"))); }

  nb::object Commit() {
    const absl::StatusOr<SnapshotInfo> info = Unlocked([&] { return writer_->Commit(); });
    if (PyErr_Occurred() != nullptr) ThrowPythonError();  // Ctrl-C
    if (!info.ok()) ThrowStatus(info.status());
    return InfoTuple(*info);
  }

  void Vote() {
    const absl::Status status = Unlocked([&] { return writer_->Vote(); });
    if (!status.ok()) ThrowStatus(status);
  }

  void Abort() {
    Unlocked([&] {
      writer_->Abort();
      return 0;
    });
  }

 private:
  const std::shared_ptr<Client> client_;
  std::unique_ptr<SnapshotWriter> writer_;
};

// Called without the GIL.
bool Interrupted() {
  if (gettid() != getpid()) return false;
  nb::gil_scoped_acquire gil;
  return PyErr_Occurred() != nullptr || PyErr_CheckSignals() != 0;
}

nb::object OpenSnapshot(const Store& store, nb::object prefix_object, nb::object number, nb::object keep_last, nb::object metadata, nb::object rank,
                        nb::object ranks, nb::object timeout, nb::object id) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view prefix = TextArgument(prefix_object, "prefix");
  SnapshotOptions options;
  options.number = CountArgument(number, "number", 1);
  const auto small = [](nb::object object, const char* field, uint64_t least) {
    const std::optional<uint64_t> count = CountArgument(object, field, least);
    if (count.value_or(0) > 1'000'000) ThrowStatus(absl::InvalidArgumentError(std::string(field) + ": at most 1000000 is allowed"));
    return static_cast<uint32_t>(count.value_or(0));
  };
  options.keep_last = small(keep_last, "keep_last", 1);
  options.rank = small(rank, "rank", 0);
  options.ranks = small(ranks, "ranks", 1);
  options.metadata = MetadataArgument(metadata);
  if (!id.is_none()) options.id = std::string(TextArgument(id, "id"));
  if (const auto seconds = SecondsArgument(timeout, "timeout")) options.timeout = *seconds;
  options.cancelled = Interrupted;
  absl::StatusOr<std::unique_ptr<SnapshotWriter>> writer = Unlocked([&] { return SnapshotWriter::Open(*client, prefix, options); });
  if (PyErr_Occurred() != nullptr) ThrowPythonError();
  if (!writer.ok()) ThrowStatus(writer.status(), prefix);
  return nb::cast(new SnapshotWriterObject(client, *std::move(writer)), nb::rv_policy::take_ownership);
}

// None: nothing can be bound to this process on this host.
nb::object OpenStage(const Store& store) {
  const std::shared_ptr<Client> client = store.Use();
  absl::StatusOr<std::unique_ptr<SnapshotStage>> stage = Unlocked([&] { return SnapshotStage::Open(*client); });
  if (absl::IsFailedPrecondition(stage.status())) return nb::none();
  if (!stage.ok()) ThrowStatus(stage.status());
  return nb::cast(new SnapshotStageObject(client, *std::move(stage)), nb::rv_policy::take_ownership);
}

// One call about the snapshots of a prefix, without the GIL.
template <class F>
auto About(const Store& store, nb::object prefix_object, F call) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view prefix = TextArgument(prefix_object, "prefix");
  auto result = Unlocked([&] { return call(Snapshots(*client, prefix)); });
  if constexpr (std::is_same_v<decltype(result), absl::Status>) {
    if (!result.ok()) ThrowStatus(result, prefix);
  } else {
    if (!result.ok()) ThrowStatus(result.status(), prefix);
    return *std::move(result);
  }
}

nb::object ListSnapshots(const Store& store, nb::object prefix) {
  nb::list list;
  for (const SnapshotInfo& info : About(store, prefix, [](Snapshots s) { return s.List(); })) list.append(InfoTuple(info));
  return list;
}

nb::object FindSnapshot(const Store& store, nb::object prefix, nb::object number) {
  const std::optional<uint64_t> wanted = CountArgument(number, "number", 1);
  return InfoTuple(About(store, prefix, [&](Snapshots s) { return s.Find(wanted); }));
}

nb::object ReadSnapshot(const Store& store, nb::object prefix, nb::object number) {
  const std::optional<uint64_t> wanted = CountArgument(number, "number", 1);
  const SnapshotContents contents = About(store, prefix, [&](Snapshots s) { return s.Read(wanted); });
  nb::list tensors;
  for (const SnapshotTensor& tensor : contents.tensors) tensors.append(TensorTuple(tensor));
  return nb::make_tuple(InfoTuple(contents.info), TextObject(contents.document), tensors);
}

void RemoveSnapshot(const Store& store, nb::object prefix, nb::object number) {
  const uint64_t wanted = CountArgument(number, "number", 1).value_or(0);
  About(store, prefix, [&](Snapshots s) { return s.Remove(wanted); });
}

void PinSnapshot(const Store& store, nb::object prefix, nb::object number, bool pinned) {
  const uint64_t wanted = CountArgument(number, "number", 1).value_or(0);
  About(store, prefix, [&](Snapshots s) { return s.Pin(wanted, pinned); });
}

nb::object WaitSnapshot(const Store& store, nb::object prefix_object, nb::object after, nb::object timeout) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view prefix = TextArgument(prefix_object, "prefix");
  const uint64_t number = CountArgument(after, "after", 0).value_or(0);
  const Snapshots snapshots(*client, prefix);
  const absl::StatusOr<SnapshotInfo> info =
      WaitInSlices(SecondsArgument(timeout, "timeout"), [&](absl::Duration slice) { return snapshots.WaitAfter(number, slice); });
  if (!info.ok()) ThrowStatus(info.status(), prefix);
  return InfoTuple(*info);
}

nb::object SnapshotPrefixes(const Store& store, nb::object prefix_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view prefix = TextArgument(prefix_object, "prefix");
  const absl::StatusOr<std::vector<std::string>> prefixes = Unlocked([&] { return Snapshots::Prefixes(*client, prefix); });
  if (!prefixes.ok()) ThrowStatus(prefixes.status(), prefix);
  nb::list list;
  for (const std::string& one : *prefixes) list.append(TextObject(one));
  return list;
}

}  // namespace

void AddSnapshotType(nb::module_& module) {
  nb::class_<SnapshotStageObject>(module, "SnapshotStage", nb::is_final())
      .def_prop_ro("id", &SnapshotStageObject::id)
      .def("put_many", &SnapshotStageObject::PutMany, "tensors"_a)
      .def("name", &SnapshotStageObject::Name, "number"_a)
      .def("drop", &SnapshotStageObject::Drop);
  nb::class_<SnapshotWriterObject>(module, "SnapshotWriter", nb::is_final())
      .def_prop_ro("id", &SnapshotWriterObject::id)
      .def("put_many", &SnapshotWriterObject::PutMany, "items"_a)
      .def("set_document", &SnapshotWriterObject::SetDocument, "document"_a)
      .def("commit", &SnapshotWriterObject::Commit)
      .def("vote", &SnapshotWriterObject::Vote)
      .def("abort", &SnapshotWriterObject::Abort);
}

void AddStoreSnapshots(StoreClass& type) {
  type.def("_open_snapshot", OpenSnapshot, "prefix"_a.none(), "number"_a.none(), "keep_last"_a.none(), "metadata"_a.none(), "rank"_a.none(),
           "ranks"_a.none(), "timeout"_a.none(), "id"_a = nb::none());
  type.def("_open_stage", OpenStage);
  type.def("_list_snapshots", ListSnapshots, "prefix"_a.none());
  type.def("_find_snapshot", FindSnapshot, "prefix"_a.none(), "number"_a.none());
  type.def("_read_snapshot", ReadSnapshot, "prefix"_a.none(), "number"_a.none());
  type.def("_remove_snapshot", RemoveSnapshot, "prefix"_a.none(), "number"_a.none());
  type.def("_pin_snapshot", PinSnapshot, "prefix"_a.none(), "number"_a.none(), "pinned"_a);
  type.def("_wait_snapshot", WaitSnapshot, "prefix"_a.none(), "after"_a.none(), "timeout"_a.none());
  type.def("_snapshot_prefixes", SnapshotPrefixes, "prefix"_a.none());
}

}  // namespace penstock::python
