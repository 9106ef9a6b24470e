#include "client/python/core/info.h"

#include <algorithm>
#include <string>

#include "client/python/core/numpy_dtypes.h"
#include "client/python/core/owned.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;

nb::object Text(const std::string& text) {
  return nb::steal(
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

nb::object Seconds(absl::Time time) {
  return nb::steal(PyFloat_FromDouble(absl::ToDoubleSeconds(time - absl::UnixEpoch())));
}

nb::object ShapeTuple(const Shape& shape) {
  nb::object tuple = nb::steal(PyTuple_New(shape.rank()));
  for (int i = 0; i < shape.rank(); ++i) {
    PyTuple_SET_ITEM(tuple.ptr(), i, PyLong_FromLongLong(shape.dim(i)));
  }
  return tuple;
}

nb::object Nodes(const TensorInfo& info) {
  nb::list list;
  for (const std::string& node : info.nodes) list.append(Text(node));
  return list;
}

nb::object Ttl(const TensorInfo& info) {
  if (!info.expires.has_value()) return nb::none();
  const double left = absl::ToDoubleSeconds(*info.expires - absl::Now());
  return nb::steal(PyFloat_FromDouble(std::max(0.0, left)));
}

nb::object Repr(const TensorInfo& info) {
  const std::string dtype(DTypeName(info.dtype));
  const nb::object name = Text(info.name);
  return nb::steal(PyUnicode_FromFormat(
      "TensorInfo(name=%R, version=%llu, dtype='%s', shape=%s, nbytes=%llu)", name.ptr(),
      static_cast<unsigned long long>(info.version.number), dtype.c_str(),
      info.shape.ToString().c_str(), static_cast<unsigned long long>(info.nbytes)));
}

nb::object Html(nb::handle self) {
  return nb::module_::import_("penstock._notebook").attr("info_html")(self);
}

}  // namespace

PyObject* NewInfo(TensorInfo&& info) { return nb::cast(std::move(info)).release().ptr(); }

PyObject* MetadataDict(const Metadata& metadata) {
  PyObject* dict = PyDict_New();
  for (const auto& [key, value] : metadata) {
    const nb::object k = Text(key);
    const nb::object v = Text(value);
    if (dict == nullptr || !k.is_valid() || !v.is_valid() ||
        PyDict_SetItem(dict, k.ptr(), v.ptr()) != 0) {
      Py_XDECREF(dict);
      return nullptr;
    }
  }
  return dict;
}

void AddInfoType(nb::module_& module) {
  nb::class_<TensorInfo>(module, "TensorInfo", nb::is_final(),
                         "What the store knows about one tensor.")
      .def_prop_ro(
          "name", [](const TensorInfo& i) { return Text(i.name); }, "Name of the tensor.")
      .def_prop_ro(
          "version", [](const TensorInfo& i) { return i.version.number; },
          "Version number; it grows with every put of the name.")
      .def_prop_ro(
          "dtype", [](const TensorInfo& i) { return nb::steal(DTypeString(i.dtype)); },
          "Element type by Penstock's name, as 'f32'.")
      .def_prop_ro(
          "shape", [](const TensorInfo& i) { return ShapeTuple(i.shape); },
          "Elements per dimension.")
      .def_prop_ro(
          "nbytes", [](const TensorInfo& i) { return i.nbytes; }, "Bytes of the elements.")
      .def_prop_ro(
          "created", [](const TensorInfo& i) { return Seconds(i.created); },
          "When it was published: seconds since 1970, UTC.")
      .def_prop_ro(
          "keep", [](const TensorInfo& i) { return i.keep; }, "False: cache class, may be evicted.")
      .def_prop_ro(
          "soft_pin", [](const TensorInfo& i) { return i.soft_pin; },
          "Of the cache class: evicted after all that have none.")
      .def_prop_ro(
          "spilled", [](const TensorInfo& i) { return i.spilled; },
          "Its bytes lie in the node's spill directory, and come back when they are asked for.")
      .def_prop_ro("ttl", Ttl, "Seconds until it expires, counted now; None = never.")
      .def_prop_ro(
          "replicas", [](const TensorInfo& i) { return i.replicas; }, "Wanted copies.")
      .def_prop_ro("nodes", Nodes, "Nodes that hold it.")
      .def_prop_ro(
          "metadata", [](const TensorInfo& i) { return nb::steal(MetadataDict(i.metadata)); },
          "Its metadata, str to str.")
      .def_prop_ro(
          "immutable", [](const TensorInfo& i) { return Text(i.immutable); },
          "'kernel': no client could ever write it; 'writer': only its writer could.")
      .def_prop_ro(
          "crc32c", [](const TensorInfo& i) { return i.crc32c ? nb::object(nb::int_(*i.crc32c)) : nb::none(); },
          "CRC32C of the bytes (RFC 3720), or None: penstockd --checksum=on computes it; see stat().")
      .def("__repr__", Repr)
      .def("_repr_html_", Html, "A table for notebooks.");
}

}  // namespace penstock::python
