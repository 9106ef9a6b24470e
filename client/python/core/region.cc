// penstock.Region, RegionHold and RegionState; Store.region.
#include <optional>
#include <string>
#include <utility>

#include "client/python/core/mutable.h"
#include "client/python/core/numpy_dtypes.h"
#include "client/python/core/options.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;
using nb::literals::operator""_a;

class RegionObject;

// What region.numpy() and hold.numpy() take.
struct ArrayArguments {
  nb::object dtype, shape, offset;
};

nb::object ArrayIn(const Region& region, const ArrayArguments& arguments, ArrayAccess access) {
  const absl::StatusOr<DType> dtype = ToDType(arguments.dtype.ptr());
  if (!dtype.ok()) ThrowMutable(dtype.status(), region.name());
  const uint64_t item = ItemSize(*dtype);
  const uint64_t offset = CountArgument(arguments.offset, "offset", 0).value_or(0);
  if (item == 0) ThrowMutable(absl::InvalidArgumentError(StrCat("dtype: ", DTypeName(*dtype), " has no whole bytes")), region.name());
  if (offset > region.nbytes() || offset % item != 0) {
    ThrowMutable(absl::InvalidArgumentError(StrCat("offset: is ", offset, "; allowed are multiples of ", item, " up to ", region.nbytes())), region.name());
  }
  const Shape shape = arguments.shape.is_none() ? Shape({static_cast<int64_t>((region.nbytes() - offset) / item)}) : ShapeArgument(arguments.shape);
  const Geometry geometry(*dtype, shape);
  if (geometry.nbytes() > region.nbytes() - offset) {
    ThrowMutable(absl::InvalidArgumentError(StrCat("shape: ", shape.ToString(), " of ", DTypeName(*dtype), " are ", geometry.nbytes(), " bytes from ",
                                                   offset, " on, but the region has ", region.nbytes())),
                 region.name());
  }
  std::shared_ptr<const void> share = region.Share();
  std::byte* const data = region.data();
  if (share == nullptr || data == nullptr) ThrowMutable(absl::FailedPreconditionError(StrCat("region \"", region.name(), "\": it was closed or deleted")), region.name());
  return ArrayOver(geometry.At(data + offset), access, std::move(share));
}

class HoldObject {
 public:
  HoldObject(nb::object region_object, const Region* region, RegionHold hold)
      : region_object_(std::move(region_object)), region_(region), hold_(std::move(hold)) {}

  const RegionHold& hold() const { return hold_; }
  nb::object Numpy(nb::object dtype, nb::object shape, nb::object offset) const {
    if (!hold_.held()) ThrowMutable(absl::FailedPreconditionError("hold: it was released before"), region_->name());
    return ArrayIn(*region_, {dtype, shape, offset}, hold_.writing() ? ArrayAccess::kWritable : ArrayAccess::kReadOnly);
  }
  void Release() {
    if (absl::Status s = hold_.Release(); !s.ok()) ThrowMutable(s, region_->name());
  }

 private:
  const nb::object region_object_;  // keeps region_
  const Region* const region_;
  RegionHold hold_;
};

class RegionObject {
 public:
  explicit RegionObject(Region region) : region_(std::move(region)) {}
  const Region& region() const { return region_; }
  void Close() {
    WithoutGil without_gil;
    region_.Close();
  }
  bool Delete() const {
    absl::StatusOr<bool> deleted = false;
    {
      WithoutGil without_gil;
      deleted = region_.Delete();
    }
    if (!deleted.ok()) ThrowMutable(deleted.status(), region_.name());
    return *deleted;
  }

 private:
  Region region_;
};

nb::object Hold(nb::handle self, bool write, nb::object timeout_object, nb::object owner_object) {
  const Region& region = nb::cast<RegionObject&>(self).region();
  HoldOptions options;
  options.timeout = SecondsArgument(timeout_object, "timeout").value_or(absl::InfiniteDuration());
  options.owner = CountArgument(owner_object, "owner", 1).value_or(0);
  options.cancelled = [] {
    nb::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
  };
  absl::StatusOr<RegionHold> hold = absl::UnknownError("");
  {
    WithoutGil without_gil;
    hold = write ? region.Write(options) : region.Read(options);
  }
  if (PyErr_Occurred() != nullptr) ThrowPythonError();  // Ctrl-C
  if (!hold.ok()) ThrowMutable(hold.status(), region.name());
  return nb::cast(new HoldObject(nb::borrow(self), &region, *std::move(hold)), nb::rv_policy::take_ownership);
}

std::string_view ModeName(RegionState::Mode mode) {
  return mode == RegionState::Mode::kIdle ? "idle" : mode == RegionState::Mode::kReading ? "reading" : "writing";
}

nb::object OpenRegion(const Store& store, nb::object name_object, nb::object nbytes_object, bool exclusive, nb::object timeout_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  const std::optional<absl::Duration> timeout = SecondsArgument(timeout_object, "timeout");
  RegionOptions options;
  options.nbytes = CountArgument(nbytes_object, "nbytes", 1).value_or(0);
  options.exclusive = exclusive;
  absl::StatusOr<std::shared_ptr<Region>> region =
      WaitInSlices(timeout ? timeout : absl::ZeroDuration(), [&](absl::Duration slice) -> absl::StatusOr<std::shared_ptr<Region>> {
        options.timeout = slice;
        absl::StatusOr<Region> one = client->OpenRegion(name, options);
        if (!one.ok()) return one.status();
        return std::make_shared<Region>(*std::move(one));
      });
  if (!region.ok()) ThrowMutable(region.status(), name);
  return nb::cast(new RegionObject(std::move(**region)), nb::rv_policy::take_ownership);
}

void AddStateType(nb::module_& module) {
  nb::class_<RegionState>(module, "RegionState", nb::is_final(), "Who holds a region, a moment ago. str(): 'idle', 'reading by 2', 'writing'.")
      .def_prop_ro("mode", [](const RegionState& s) { return TextObject(ModeName(s.mode)); }, "'idle', 'reading' or 'writing'.")
      .def_prop_ro("owners", [](const RegionState& s) {
        nb::list owners;
        for (uint64_t session : s.owners) owners.append(nb::int_(session));
        return owners;
      }, "Their sessions, as `penstock sessions` shows them: of the writer, or one for each reader.")
      .def_prop_ro("readers", [](const RegionState& s) { return s.mode == RegionState::Mode::kReading ? s.owners.size() : size_t{0}; }, "How many read.")
      .def_prop_ro("waiting", [](const RegionState& s) { return s.waiting; }, "How many wait.")
      .def_prop_ro("abandoned", [](const RegionState& s) { return s.abandoned; }, "A writer died, and none has written since.")
      .def("__str__", [](const RegionState& s) { return TextObject(s.ToString()); })
      .def("__repr__", [](const RegionState& s) { return TextObject(StrCat("RegionState(", s.ToString(), ")")); });
}

void AddHoldType(nb::module_& module) {
  nb::class_<HoldObject>(module, "RegionHold", nb::is_final(),
                         "A region that is held, until release(). A context manager: releases at its end.\n\n"
                         "The death of this process releases it too, within a second.")
      .def_prop_ro("held", [](const HoldObject& h) { return h.hold().held(); }, "False after release().")
      .def_prop_ro("writing", [](const HoldObject& h) { return h.hold().writing(); }, "False: for reading.")
      .def_prop_ro("abandoned", [](const HoldObject& h) { return h.hold().abandoned(); },
                   "A writer died while it wrote, and none has written since: the bytes may be half-written.")
      .def("numpy", &HoldObject::Numpy, "dtype"_a.none() = "u8", "shape"_a = nb::none(), "offset"_a = 0,
           "As Region.numpy; read-only if it is held for reading.")
      .def("release", &HoldObject::Release, "Gives it back. A second time raises ConflictError.")
      .def("__enter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__exit__", [](HoldObject& self, nb::handle, nb::handle, nb::handle) {
             if (self.hold().held()) self.Release();
           }, "type"_a.none(), "value"_a.none(), "traceback"_a.none());
}

void AddRegionType(nb::module_& module) {
  nb::class_<RegionObject>(module, "Region", nb::is_final(),
                           "Memory that the processes of a host change together, with a reader/writer lock.\n\n"
                           "It lives until no process has it open, or until delete(). A context manager: closes at its end.")
      .def_prop_ro("name", [](const RegionObject& r) { return TextObject(r.region().name()); }, "Its name.")
      .def_prop_ro("nbytes", [](const RegionObject& r) { return r.region().nbytes(); }, "Its bytes.")
      .def_prop_ro("created", [](const RegionObject& r) { return r.region().created(); }, "Made by this call; False: it was there.")
      .def_prop_ro("deleted", [](const RegionObject& r) { return r.region().deleted(); }, "Whether its name is gone.")
      .def_prop_ro("closed", [](const RegionObject& r) { return r.region().closed(); }, "Whether close() was called.")
      .def("numpy", [](const RegionObject& r, nb::object dtype, nb::object shape, nb::object offset) {
             return ArrayIn(r.region(), {dtype, shape, offset}, ArrayAccess::kWritable);
           }, "dtype"_a.none() = "u8", "shape"_a = nb::none(), "offset"_a = 0,
           "Its memory as a writable numpy.ndarray, without a copy. offset: in bytes. shape: None = all that\n"
           "is left. Who does not hold the region meanwhile may see, and make, half-written values.")
      .def("reading", [](nb::handle self, nb::object timeout) { return Hold(self, false, timeout, nb::none()); }, "timeout"_a = nb::none(),
           "Holds it together with other readers: `with region.reading(): ...`. Returns RegionHold.\n\n"
           "timeout: seconds, None = for ever. Raises DeadlineError; ConflictError when this thread holds it\n"
           "for writing.")
      .def("writing", [](nb::handle self, nb::object timeout) { return Hold(self, true, timeout, nb::none()); }, "timeout"_a = nb::none(),
           "Holds it alone: `with region.writing() as hold: ...`. Returns RegionHold.\n\n"
           "timeout: seconds, None = for ever. Raises DeadlineError; ConflictError when this thread holds it\n"
           "already.")
      .def("_hold", Hold, "write"_a, "timeout"_a.none(), "owner"_a.none())
      .def("state", [](const RegionObject& r) { return r.region().state(); }, "Who holds it now: RegionState.")
      .def("delete", &RegionObject::Delete,
           "Its name goes at once, its memory when nobody has it open. Returns whether it had its name.")
      .def("close", &RegionObject::Close, "This object is done with it; holds and arrays stay good. Idempotent.")
      .def("__enter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__exit__", [](RegionObject& self, nb::handle, nb::handle, nb::handle) { self.Close(); }, "type"_a.none(), "value"_a.none(),
           "traceback"_a.none())
      .def("__repr__", [](const RegionObject& r) {
        return TextObject(StrCat("Region(name='", r.region().name(), "', nbytes=", r.region().nbytes(), ", ", r.region().state().ToString(), ")"));
      });
}

}  // namespace

void AddRegionTypes(nb::module_& module) {
  AddStateType(module);
  AddHoldType(module);
  AddRegionType(module);
}

void AddStoreRegions(StoreClass& type) {
  type.def("region", OpenRegion, "name"_a.none(), "nbytes"_a = nb::none(), nb::kw_only(), "exclusive"_a = false, "timeout"_a = nb::none(),
           "Memory that processes of this host change together: opened, or made (all zero) if there is none.\n\n"
           "nbytes: None = it must be there; timeout then: seconds to wait for it. exclusive: it must not be\n"
           "there. It lives until no process has it open any more, or until Region.delete(). Raises\n"
           "NotFoundError, AlreadyExistsError, InvalidArgumentError (another size), StoreFullError. Returns Region.");
}

}  // namespace penstock::python
