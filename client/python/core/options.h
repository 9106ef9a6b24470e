// Arguments of Python calls -> options of the client, each with an error that names the field.
//
// Threading:  with the GIL.
// Ownership:  std::string_view results point into the Python string.
// Errors:     a Python error is thrown (nanobind::python_error): TypeError for a wrong type,
//             InvalidArgumentError for a value that is not allowed.
// Limits:     numbers of seconds may be int, float or datetime.timedelta.
#pragma once

#include <nanobind/nanobind.h>
#include <penstock/client.h>

#include <optional>
#include <string_view>

namespace penstock::python {

// A str argument called `field`.
std::string_view TextArgument(nanobind::handle object, const char* field);

bool BoolArgument(nanobind::handle object, const char* field);

// None or a number of seconds >= 0.
std::optional<absl::Duration> SecondsArgument(nanobind::handle object, const char* field);

// None or an integer >= `least`.
std::optional<uint64_t> CountArgument(nanobind::handle object, const char* field, uint64_t least);

// An integer or a sequence of them, at most kMaxRank: TypeError, InvalidArgumentError.
Dims DimsArgument(nanobind::handle object, const char* field);
// The same, as the shape of a tensor.
Shape ShapeArgument(nanobind::handle object, const char* field = "shape");

// Text of ours as Python has it.
nanobind::object TextObject(std::string_view text);

// None or a dict of str to str.
Metadata MetadataArgument(nanobind::handle object);

struct PutArguments {
  nanobind::object replicas, keep, ttl, metadata, version, if_absent, if_version;
  nanobind::object soft_pin = nanobind::bool_(false);
};
PutOptions ToPutOptions(const PutArguments& arguments);

}  // namespace penstock::python
