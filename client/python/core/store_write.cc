// Writes: put, put_many, put_shard, create, delete, delete_prefix, move.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/python/core/draft.h"
#include "client/python/core/incoming.h"
#include "client/python/core/mutable.h"
#include "client/python/core/info.h"
#include "client/python/core/numpy_dtypes.h"
#include "client/python/core/options.h"
#include "client/python/core/store.h"
#include "proto/strcat.h"
#include "transport/monotonic.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;
using nb::literals::operator""_a;

nb::object Put(const Store& store, nb::object name_object, nb::object tensor, nb::object replicas,
               nb::object keep, nb::object ttl, nb::object metadata, nb::object version,
               nb::object if_absent, nb::object if_version, nb::object soft_pin) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  const PutOptions options =
      ToPutOptions({replicas, keep, ttl, metadata, version, if_absent, if_version, soft_pin});
  Incoming incoming;
  if (!incoming.Read(tensor.ptr(), "tensor")) ThrowPythonError();
  const ConstTensorRef ref = incoming.ref();
  absl::StatusOr<TensorInfo> info = absl::UnknownError("");
  {
    WithoutGil without_gil;
    info = client->Put(name, ref, options);
  }
  if (!info.ok()) ThrowStatus(info.status(), name);
  return nb::steal(NewInfo(*std::move(info)));
}

// tensors: list of (name, tensor) -> (list of TensorInfo | Error, number of errors)
nb::object PutMany(const Store& store, nb::list tensors, nb::object replicas, nb::object keep,
                   nb::object ttl, nb::object metadata, nb::object version, nb::object if_absent,
                   nb::object if_version, nb::object soft_pin) {
  const std::shared_ptr<Client> client = store.Use();
  const PutOptions options =
      ToPutOptions({replicas, keep, ttl, metadata, version, if_absent, if_version, soft_pin});
  const size_t count = tensors.size();
  std::vector<Incoming> incoming(count);
  std::vector<PutRequest> requests(count);
  for (size_t i = 0; i < count; ++i) {
    PyObject* pair = PyList_GET_ITEM(tensors.ptr(), static_cast<Py_ssize_t>(i));
    if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
      SetTypeError("tensors: must be a dict, or pairs of name and tensor");
      ThrowPythonError();
    }
    requests[i].name = TextArgument(PyTuple_GET_ITEM(pair, 0), "name");
    if (!incoming[i].Read(PyTuple_GET_ITEM(pair, 1), "tensor")) ThrowPythonError();
    requests[i].tensor = incoming[i].ref();
  }
  std::vector<absl::StatusOr<TensorInfo>> infos;
  {
    WithoutGil without_gil;
    infos = client->PutMany(requests, options);
  }
  nb::object results = nb::steal(PyList_New(static_cast<Py_ssize_t>(infos.size())));
  int errors = 0;
  for (size_t i = 0; i < infos.size(); ++i) {
    PyObject* item = infos[i].ok() ? NewInfo(*std::move(infos[i]))
                                   : MakeError(infos[i].status(), requests[i].name);
    if (item == nullptr) ThrowPythonError();
    errors += infos[i].ok() ? 0 : 1;
    PyList_SET_ITEM(results.ptr(), static_cast<Py_ssize_t>(i), item);
  }
  return nb::make_tuple(results, errors);
}

nb::object Create(const Store& store, nb::object name_object, nb::object shape_object,
                  nb::object dtype_object, nb::object replicas, nb::object keep, nb::object ttl,
                  nb::object metadata, nb::object version, nb::object if_absent,
                  nb::object if_version, nb::object soft_pin) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  const Shape shape = ShapeArgument(shape_object);
  const absl::StatusOr<DType> dtype = ToDType(dtype_object.ptr());
  if (!dtype.ok()) ThrowStatus(dtype.status(), name);
  const PutOptions options =
      ToPutOptions({replicas, keep, ttl, metadata, version, if_absent, if_version, soft_pin});
  absl::StatusOr<Draft> draft = absl::UnknownError("");
  {
    WithoutGil without_gil;
    draft = client->Create(name, *dtype, shape, options);
  }
  if (!draft.ok()) ThrowStatus(draft.status(), name);
  return NewDraft(client, std::string(name), *std::move(draft));
}

// TensorInfo | None
nb::object PutShard(const Store& store, nb::object name_object, nb::object local, nb::object global_shape,
                    nb::object offset, nb::object keep, nb::object ttl, nb::object metadata,
                    nb::object version) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  const PutOptions options = ToPutOptions(
      {nb::none(), keep, ttl, metadata, version, nb::bool_(false), nb::none()});
  const ShardPlace place{.whole = ShapeArgument(global_shape, "global_shape"),
                         .offset = DimsArgument(offset, "offset")};
  Incoming incoming;
  if (!incoming.Read(local.ptr(), "local")) ThrowPythonError();
  const ConstTensorRef ref = incoming.ref();
  absl::StatusOr<std::optional<TensorInfo>> info = absl::UnknownError("");
  {
    WithoutGil without_gil;
    info = client->PutShard(name, ref, place, options);
  }
  if (!info.ok()) ThrowStatus(info.status(), name);
  return *info ? nb::steal(NewInfo(**std::move(info))) : nb::none();
}

bool Delete(const Store& store, nb::object name_object, nb::object version_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  const std::optional<uint64_t> version = CountArgument(version_object, "version", 1);
  absl::StatusOr<bool> deleted = false;
  {
    WithoutGil without_gil;
    deleted = client->Delete(name, version);
  }
  if (!deleted.ok()) ThrowStatus(deleted.status(), name);
  return *deleted;
}

uint64_t DeletePrefix(const Store& store, nb::object prefix_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view prefix = TextArgument(prefix_object, "prefix");
  absl::StatusOr<uint64_t> count = uint64_t{0};
  {
    WithoutGil without_gil;
    count = client->DeletePrefix(prefix);
  }
  if (!count.ok()) ThrowStatus(count.status(), prefix);
  return *count;
}

nb::object Move(const Store& store, nb::object name_object, nb::object to_object, nb::object copy_object, nb::object timeout_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  const std::string_view to = TextArgument(to_object, "to");
  const bool copy = BoolArgument(copy_object, "copy");
  const absl::Duration timeout = SecondsArgument(timeout_object, "timeout").value_or(absl::InfiniteDuration());
  const absl::Time end = MonotonicNow() + timeout;
  absl::StatusOr<MoveResult> moved = absl::UnknownError("");
  while (true) {
    {
      WithoutGil without_gil;
      moved = client->Move(name, to, copy, absl::ZeroDuration());  // 0.7 s, if it is not there
    }
    if (!absl::IsDeadlineExceeded(moved.status()) || MonotonicNow() >= end) break;
    if (PyErr_CheckSignals() != 0) ThrowPythonError();
  }
  if (!moved.ok()) ThrowStatus(moved.status(), name);
  return moved->from.empty() ? nb::none() : nb::object(nb::str(moved->from.c_str()));
}

}  // namespace

void AddStoreWrites(StoreClass& type) {
  const auto one = nb::int_(1);
  type.def(
      "put", Put, "name"_a.none(), "tensor"_a.none(), nb::kw_only(), "replicas"_a.none() = one,
      "keep"_a.none() = true, "ttl"_a = nb::none(), "metadata"_a = nb::none(),
      "version"_a = nb::none(), "if_absent"_a.none() = false, "if_version"_a = nb::none(),
      "soft_pin"_a.none() = false,
      "Stores a copy of `tensor` under `name`; visible whole, at once, to every process.\n\n"
      "tensor: NumPy array, torch CPU tensor, or anything with __dlpack__, the buffer protocol,\n"
      "__array_interface__ or __array__; scalars and lists go through np.asarray. Strided\n"
      "arrays are gathered in the same single copy.\n"
      "keep=False: may be evicted when memory is short, what is used seldom first; soft_pin=True, with\n"
      "it: after all that have no soft pin. keep=True: never (a node with --spill_dir moves the coldest\n"
      "to its disk, and back when they are asked for). ttl: seconds. metadata: dict of str to\n"
      "str, 16 KiB in all. version: a larger number than the present one. if_absent: only if\n"
      "the name is free. if_version: only if the present version is this one (0 = free).\n"
      "Returns TensorInfo. Raises InvalidArgumentError, AlreadyExistsError, ConflictError,\n"
      "StoreFullError, UnavailableError. Any thread.");
  type.def(
      "put_shard", PutShard, "name"_a.none(), "local"_a.none(), nb::kw_only(), "global_shape"_a.none(),
      "offset"_a.none(), "keep"_a.none() = true, "ttl"_a = nb::none(), "metadata"_a = nb::none(),
      "version"_a = nb::none(),
      "Puts one shard of a tensor that several processes, on any hosts, put together under `name`.\n\n"
      "local: the shard, as put() takes tensors; it lies at `offset` of a whole of `global_shape`.\n"
      "The tensor is visible, whole and as one, once its shards cover it: the call whose shard is the\n"
      "last one copies them together and returns the TensorInfo; the others return None, and\n"
      "store.wait(name) waits. Shards without elements are no part of it.\n"
      "A shard goes with the session that has put it: keep the Store open until the tensor is there.\n"
      "If a process ends before, its box is open again. (A store on a host without a node keeps\n"
      "shards for an hour instead.)\n"
      "version: tells rounds apart, the training step, say; larger than the present one. Without it\n"
      "a process may put its next shard only when the tensor is there: ConflictError tells what is\n"
      "missing. The same box of several processes counts once; without version it must be equal.\n"
      "keep, ttl, metadata: as put(), the same for all shards. After a DeadlineError the tensor may be\n"
      "there. Raises InvalidArgumentError (shards that overlap, or do not agree), ConflictError,\n"
      "StoreFullError, UnavailableError. Any thread.");
  type.def("_put_many", PutMany, "tensors"_a, nb::kw_only(), "replicas"_a.none() = one,
           "keep"_a.none() = true, "ttl"_a = nb::none(), "metadata"_a = nb::none(),
           "version"_a = nb::none(), "if_absent"_a.none() = false, "if_version"_a = nb::none(),
           "soft_pin"_a.none() = false);
  type.def(
      "create", Create, "name"_a.none(), "shape"_a.none(), "dtype"_a.none(), nb::kw_only(),
      "replicas"_a.none() = one, "keep"_a.none() = true, "ttl"_a = nb::none(),
      "metadata"_a = nb::none(), "version"_a = nb::none(), "if_absent"_a.none() = false,
      "if_version"_a = nb::none(), "soft_pin"_a.none() = false,
      "A Draft: memory of the store itself to be filled in place and published without a copy.\n\n"
      "A context manager: publishes when the block ends well, aborts on an exception. Its first\n"
      "bytes are undefined. Options as put().");
  type.def(
      "delete", Delete, "name"_a.none(), "version"_a = nb::none(),
      "Deletes a name; with `version` only if that is the present one. Open views stay valid.\n"
      "Returns whether there was one.");
  type.def("delete_prefix", DeletePrefix, "prefix"_a.none(),
           "Deletes every name that begins with `prefix`; returns how many.");
  type.def("move", Move, "name"_a.none(), "to"_a.none(), "copy"_a.none() = false, "timeout"_a = nb::none(),
           "Moves a tensor to another node of the cluster.\n\n"
           "to: the node's uuid, as `penstock nodes` shows it, or its beginning. That node copies the\n"
           "tensor; then the fullest of the others that hold it gives it up, unless fewer would be left than\n"
           "`replicas`, or copy=True. Views and readers notice nothing. timeout: seconds; None waits.\n"
           "Returns the uuid of the node that gave it up, or None. Raises NotFoundError (no such tensor or\n"
           "node), StoreFullError (that node has no room), ConflictError (it drains, or there is no cluster),\n"
           "UnavailableError (it cannot be reached), DeadlineError (it is on its way, and goes on). Any thread.");
}

}  // namespace penstock::python
