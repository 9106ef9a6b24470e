// Channels and regions in Python: penstock.ChannelWriter, ChannelReader, Region and what they give.
//
// Threading:  with the GIL, which waits let go. A reader that two threads use at once serves one after the other.
// Ownership:  arrays hold a share of the memory that they show; nothing of Python is in that share.
// Errors:     as everywhere, without the hints that are about tensors.
// Limits:     arrays over a step or a region show memory that others change.
#pragma once

#include <nanobind/nanobind.h>
#include <penstock/client.h>

#include <memory>
#include <string_view>

#include "client/python/core/arrays.h"
#include "client/python/core/store.h"

namespace penstock::python {

// dtype, shape and strides of what a channel or an array over a region shows.
struct Geometry {
  DType dtype;
  Shape shape;
  Strides strides;
  Geometry(DType type, const Shape& dims) : dtype(type), shape(dims), strides(ContiguousStrides(type, dims)) {}
  Layout At(const void* data) const {
    return {static_cast<const std::byte*>(data), shape.dims().data(), strides.data(), shape.rank(), dtype};
  }
  uint64_t nbytes() const { return static_cast<uint64_t>(shape.num_elements()) * static_cast<uint64_t>(BitsPerElement(dtype)) / 8; }
};

// An array over memory that `share` keeps.
nanobind::object ArrayOver(const Layout& layout, ArrayAccess access, std::shared_ptr<const void> share);
[[noreturn]] void ThrowMutable(const absl::Status& status, std::string_view name);
nanobind::object ShapeTuple(const Shape& shape);
void AddChannelTypes(nanobind::module_& module);  // channel.cc
void AddStoreChannels(StoreClass& type);
void AddRegionTypes(nanobind::module_& module);  // region.cc
void AddStoreRegions(StoreClass& type);

}  // namespace penstock::python
