#include "client/python/core/options.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "client/python/core/raise.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;

[[noreturn]] void ThrowType(const char* field, std::string_view wanted, nb::handle got) {
  SetTypeError(StrCat(field, ": must be ", wanted, ", not ", TypeName(got.ptr())));
  ThrowPythonError();
}

}  // namespace

bool BoolArgument(nb::handle object, const char* field) {
  if (!PyBool_Check(object.ptr())) ThrowType(field, "True or False", object);
  return object.ptr() == Py_True;
}

Dims DimsArgument(nb::handle object, const char* field) {
  nb::object numbers = nb::steal(PyIndex_Check(object.ptr()) != 0 ? PyTuple_Pack(1, object.ptr()) : PySequence_Tuple(object.ptr()));
  if (!numbers.is_valid()) ThrowType(field, "an integer or a tuple of integers", object);
  std::vector<int64_t> dims(static_cast<size_t>(PyTuple_GET_SIZE(numbers.ptr())));
  if (dims.size() > static_cast<size_t>(kMaxRank)) {
    ThrowStatus(absl::InvalidArgumentError(StrCat(field, ": has ", dims.size(), " numbers; at most ", kMaxRank, " are allowed")));
  }
  for (size_t i = 0; i < dims.size(); ++i) {
    dims[i] = PyNumber_AsSsize_t(PyTuple_GET_ITEM(numbers.ptr(), static_cast<Py_ssize_t>(i)), PyExc_OverflowError);
    if (dims[i] != -1 || PyErr_Occurred() == nullptr) continue;
    if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) ThrowPythonError();
    PyErr_Clear();
    ThrowType(field, "an integer or a tuple of integers", object);
  }
  return Dims(dims);
}

Shape ShapeArgument(nb::handle object, const char* field) {
  const absl::StatusOr<Shape> shape = Shape::Create(DimsArgument(object, field).span());
  if (!shape.ok() && std::string_view(field) != "shape") ThrowStatus(absl::InvalidArgumentError(StrCat(field, ": ", shape.status().message())));
  if (!shape.ok()) ThrowStatus(shape.status());
  return *shape;
}

nb::object TextObject(std::string_view text) { return nb::str(text.data(), text.size()); }

Metadata MetadataArgument(nb::handle object) {
  Metadata metadata;
  if (object.is_none()) return metadata;
  if (!PyDict_Check(object.ptr())) ThrowType("metadata", "a dict of str to str", object);
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t position = 0;
  while (PyDict_Next(object.ptr(), &position, &key, &value) != 0) {
    metadata.emplace(TextArgument(key, "metadata key"), TextArgument(value, "metadata value"));
  }
  return metadata;
}

std::string_view TextArgument(nb::handle object, const char* field) {
  if (!PyUnicode_Check(object.ptr())) ThrowType(field, "str", object);
  Py_ssize_t length = 0;
  const char* text = PyUnicode_AsUTF8AndSize(object.ptr(), &length);
  if (text == nullptr) {  // lone surrogates
    PyErr_Clear();
    ThrowStatus(
        absl::InvalidArgumentError(StrCat(field, ": is not valid Unicode (lone surrogates)")));
  }
  return {text, static_cast<size_t>(length)};
}

std::optional<absl::Duration> SecondsArgument(nb::handle object, const char* field) {
  if (object.is_none()) return std::nullopt;
  nb::object number = nb::borrow(object);
  if (PyObject_HasAttrString(object.ptr(), "total_seconds") != 0) {
    number = nb::steal(PyObject_CallMethod(object.ptr(), "total_seconds", nullptr));
    if (!number.is_valid()) ThrowPythonError();
  }
  if (PyBool_Check(number.ptr()) || PyNumber_Check(number.ptr()) == 0) {
    ThrowType(field, "a number of seconds or None", object);
  }
  const double seconds = PyFloat_AsDouble(number.ptr());
  if (seconds == -1.0 && PyErr_Occurred() != nullptr) ThrowPythonError();
  if (std::isnan(seconds) || seconds < 0) {
    ThrowStatus(absl::InvalidArgumentError(
        StrCat(field, ": is ", std::to_string(seconds), " s; allowed are 0 and more")));
  }
  return absl::Seconds(seconds);
}

std::optional<uint64_t> CountArgument(nb::handle object, const char* field, uint64_t least) {
  if (object.is_none()) return std::nullopt;
  if (PyBool_Check(object.ptr()) || PyIndex_Check(object.ptr()) == 0) {
    ThrowType(field, "an integer or None", object);
  }
  nb::object number = nb::steal(PyNumber_Index(object.ptr()));
  if (!number.is_valid()) ThrowPythonError();
  const unsigned long long value = PyLong_AsUnsignedLongLong(number.ptr());
  const bool outside = PyErr_Occurred() != nullptr;
  PyErr_Clear();
  if (outside || value < least || value > uint64_t{std::numeric_limits<int64_t>::max()}) {
    const nb::object text = nb::steal(PyObject_Str(number.ptr()));
    ThrowStatus(absl::InvalidArgumentError(StrCat(field, ": is ", TextArgument(text, field),
                                                  "; allowed are ", least, " to 2^63 - 1")));
  }
  return value;
}

PutOptions ToPutOptions(const PutArguments& arguments) {
  PutOptions options;
  const std::optional<uint64_t> replicas = CountArgument(arguments.replicas, "replicas", 1);
  options.replicas = static_cast<uint32_t>(std::min<uint64_t>(replicas.value_or(1), 1u << 16));
  options.keep = BoolArgument(arguments.keep, "keep");
  options.soft_pin = BoolArgument(arguments.soft_pin, "soft_pin");
  if (options.soft_pin && options.keep) ThrowStatus(absl::InvalidArgumentError("soft_pin: needs keep=False; what is kept is never evicted"));
  options.ttl = SecondsArgument(arguments.ttl, "ttl");
  options.metadata = MetadataArgument(arguments.metadata);
  options.version = CountArgument(arguments.version, "version", 1).value_or(0);
  options.if_absent = BoolArgument(arguments.if_absent, "if_absent");
  options.if_version = CountArgument(arguments.if_version, "if_version", 0);
  return options;
}

}  // namespace penstock::python
