// penstock.ChannelWriter, ChannelSlot, ChannelReader, ChannelStep; Store.channel and Store.subscribe.
#include <algorithm>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "client/python/core/incoming.h"
#include "client/python/core/mutable.h"
#include "client/python/core/numpy_dtypes.h"
#include "client/python/core/options.h"
#include "proto/strcat.h"
#include "transport/monotonic.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;
using nb::literals::operator""_a;
using SharedGeometry = std::shared_ptr<const Geometry>;  // of one channel, for all that is made from it

constexpr uint64_t kCopyWithGil = uint64_t{64} << 10;  // below it a copy is over before the GIL could be given away

class SlotObject {
 public:
  SlotObject(std::string name, SharedGeometry geometry, ChannelSlot slot)
      : name_(std::move(name)), geometry_(std::move(geometry)), slot_(std::move(slot)) {}

  uint64_t seq() const { return seq_; }
  bool open() const { return slot_.has_value(); }
  nb::object Numpy() {
    CheckOpen("numpy");
    if (!array_.is_valid()) array_ = ArrayOver(geometry_->At(slot_->data()), ArrayAccess::kWritable, slot_->Share());
    return array_;
  }
  uint64_t Commit() {
    CheckOpen("commit");
    Freeze();
    ChannelSlot slot = *std::move(slot_);
    slot_.reset();
    const absl::StatusOr<uint64_t> seq = std::move(slot).Commit();
    if (!seq.ok()) ThrowMutable(seq.status(), name_);
    return seq_ = *seq;
  }
  void Abort() {
    Freeze();
    slot_.reset();
  }

 private:
  void CheckOpen(const char* operation) const {
    if (slot_) return;
    ThrowMutable(absl::FailedPreconditionError(StrCat(operation, ": the step of the channel \"", name_,
                                                      "\" was committed or aborted before")),
                 name_);
  }
  // A late write through the array is an error, not a torn step.
  void Freeze() {
    if (array_.is_valid()) PyArray_CLEARFLAGS(reinterpret_cast<PyArrayObject*>(array_.ptr()), NPY_ARRAY_WRITEABLE);
    array_ = nb::object();
  }

  const std::string name_;
  const SharedGeometry geometry_;
  std::optional<ChannelSlot> slot_;
  nb::object array_;
  uint64_t seq_ = 0;
};

class WriterObject {
 public:
  explicit WriterObject(ChannelWriter writer)
      : writer_(std::move(writer)), geometry_(std::make_shared<const Geometry>(writer_.dtype(), writer_.shape())) {}

  const ChannelWriter& writer() const { return writer_; }

  uint64_t seq() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return writer_.seq();
  }
  bool closed() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return writer_.closed();
  }
  nb::object Write() {
    absl::StatusOr<ChannelSlot> slot = Locked([&] { return writer_.Begin(); });
    if (!slot.ok()) ThrowMutable(slot.status(), writer_.name());
    return nb::cast(new SlotObject(writer_.name(), geometry_, *std::move(slot)), nb::rv_policy::take_ownership);
  }
  uint64_t Put(nb::object tensor) {
    Incoming incoming;
    if (!incoming.Read(tensor.ptr(), "tensor")) ThrowPythonError();
    const ConstTensorRef ref = incoming.ref();
    absl::StatusOr<uint64_t> seq = absl::UnknownError("");
    if (writer_.nbytes() <= kCopyWithGil) {
      seq = Locked([&] { return writer_.Put(ref); });
    } else {
      WithoutGil without_gil;
      seq = Locked([&] { return writer_.Put(ref); });
    }
    if (!seq.ok()) ThrowMutable(seq.status(), writer_.name());
    return *seq;
  }
  void Close() {
    std::lock_guard<std::mutex> lock(mutex_);
    writer_.Close();
  }

 private:
  // Who holds the lock does not need the GIL to let it go.
  template <class Call>
  std::invoke_result_t<Call> Locked(Call call) {
    std::lock_guard<std::mutex> lock(mutex_);
    return call();
  }

  mutable std::mutex mutex_;
  ChannelWriter writer_;
  const SharedGeometry geometry_;
};

struct StepObject {
  ChannelStep step;
  SharedGeometry geometry;

  nb::object Numpy() const { return ArrayOver(geometry->At(step.data()), ArrayAccess::kReadOnly, step.Share()); }
  nb::object Array(nb::object dtype, nb::object copy) const {
    if (dtype.is_none() && copy.ptr() != Py_True) return Numpy();
    return Numpy().attr("astype")(dtype.is_none() ? Numpy().attr("dtype") : dtype, "copy"_a = copy.ptr() == Py_True);
  }
};

class ReaderObject {
 public:
  explicit ReaderObject(ChannelReader reader)
      : name_(reader.name()),
        slots_(reader.slots()),
        geometry_(std::make_shared<const Geometry>(reader.dtype(), reader.shape())),
        reader_(std::move(reader)) {}

  const std::string& name() const { return name_; }
  const Geometry& geometry() const { return *geometry_; }
  uint32_t slots() const { return slots_; }
  uint64_t missed() const { return missed_; }
  bool closed() {
    std::lock_guard<std::mutex> lock(mutex_);
    return !reader_ || reader_->closed();
  }
  void Close() {
    WithoutGil without_gil;
    std::lock_guard<std::mutex> lock(mutex_);
    reader_.reset();
  }

  nb::object Latest() {
    absl::StatusOr<ChannelStep> step = Locked([](ChannelReader& reader) { return reader.Latest(); });
    if (absl::IsNotFound(step.status())) return nb::none();
    return Give(std::move(step));
  }
  nb::object Next(nb::object timeout_object) {
    const std::optional<absl::Duration> timeout = SecondsArgument(timeout_object, "timeout");
    absl::StatusOr<ChannelStep> step = Locked([](ChannelReader& reader) { return reader.Next(absl::ZeroDuration()); });
    if (absl::IsDeadlineExceeded(step.status())) {
      step = WaitInSlices(timeout, [this](absl::Duration slice) { return Wait([&](ChannelReader& r) { return r.Next(slice); }); });
    }
    return Give(std::move(step));
  }
  nb::object ReadInto(nb::object out_object, bool next, nb::object timeout_object) {
    const std::optional<absl::Duration> timeout = SecondsArgument(timeout_object, "timeout");
    Incoming out;
    if (!out.Read(out_object.ptr(), "out")) ThrowPythonError();
    CheckOut(out);
    void* const memory = const_cast<void*>(out.ref().data);
    const uint64_t nbytes = geometry_->nbytes();
    absl::StatusOr<ChannelStep> step = absl::UnknownError("");
    if (next) {
      step = WaitInSlices(timeout, [&](absl::Duration slice) {
        return Wait([&](ChannelReader& r) { return r.ReadInto(memory, nbytes, &slice); });
      });
    } else {
      WithoutGil without_gil;
      step = Wait([&](ChannelReader& r) { return r.ReadInto(memory, nbytes); });
      if (absl::IsNotFound(step.status())) step = ChannelStep();
    }
    if (!step.ok()) ThrowMutable(step.status(), name());
    if (step->seq() == 0) return nb::none();
    missed_ += step->missed();
    return nb::int_(step->seq());
  }

 private:
  absl::Status CheckLive() const {
    return reader_ ? absl::OkStatus() : absl::FailedPreconditionError(StrCat("reader of \"", name_, "\": it was closed; subscribe again"));
  }
  template <class Call>
  absl::StatusOr<ChannelStep> Wait(Call call) {  // without the GIL
    std::lock_guard<std::mutex> lock(mutex_);
    if (absl::Status s = CheckLive(); !s.ok()) return s;
    return call(*reader_);
  }
  template <class Call>
  absl::StatusOr<ChannelStep> Locked(Call call) {  // what does not wait, unless another thread does
    if (std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock.owns_lock()) {
      if (absl::Status s = CheckLive(); !s.ok()) return s;
      return call(*reader_);
    }
    WithoutGil without_gil;
    return Wait(call);
  }
  nb::object Give(absl::StatusOr<ChannelStep> step) {
    if (!step.ok()) ThrowMutable(step.status(), name());
    missed_ += step->missed();
    return nb::cast(new StepObject{*std::move(step), geometry_}, nb::rv_policy::take_ownership);
  }
  void CheckOut(const Incoming& out) const {
    const Layout layout = out.layout();
    const Shape shape(absl::MakeConstSpan(layout.shape, static_cast<size_t>(layout.rank)));
    if (!out.writable() || !layout.c_contiguous()) {
      ThrowMutable(absl::InvalidArgumentError("out: must be a writable array in C order"), name());
    }
    if (layout.dtype == geometry_->dtype && shape == geometry_->shape) return;
    ThrowMutable(absl::InvalidArgumentError(StrCat("out: is ", DTypeName(layout.dtype), shape.ToString(), ", but a step is ",
                                                   DTypeName(geometry_->dtype), geometry_->shape.ToString())),
                 name());
  }

  const std::string name_;
  const uint32_t slots_;
  const SharedGeometry geometry_;
  std::mutex mutex_;
  std::optional<ChannelReader> reader_;  // guarded by mutex_; none: closed
  uint64_t missed_ = 0;                  // with the GIL
};

nb::object OpenChannel(const Store& store, nb::object name_object, nb::object shape_object, nb::object dtype_object,
                       nb::object slots_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  const Shape shape = ShapeArgument(shape_object);
  const absl::StatusOr<DType> dtype = ToDType(dtype_object.ptr());
  if (!dtype.ok()) ThrowMutable(dtype.status(), name);
  ChannelOptions options;
  if (const std::optional<uint64_t> slots = CountArgument(slots_object, "slots", 2)) {
    options.slots = static_cast<uint32_t>(std::min<uint64_t>(*slots, UINT32_MAX));
  }
  absl::StatusOr<ChannelWriter> writer = absl::UnknownError("");
  {
    WithoutGil without_gil;
    writer = client->OpenChannel(name, *dtype, shape, options);
  }
  if (!writer.ok()) ThrowMutable(writer.status(), name);
  return nb::cast(new WriterObject(*std::move(writer)), nb::rv_policy::take_ownership);
}

nb::object Subscribe(const Store& store, nb::object name_object, nb::object timeout_object, nb::object shape_object,
                     nb::object dtype_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  const std::optional<absl::Duration> timeout = SecondsArgument(timeout_object, "timeout");
  Shape shape;
  SubscribeOptions options;
  if (!shape_object.is_none()) {
    shape = ShapeArgument(shape_object);
    options.shape = &shape;
  }
  if (!dtype_object.is_none()) {
    const absl::StatusOr<DType> dtype = ToDType(dtype_object.ptr());
    if (!dtype.ok()) ThrowMutable(dtype.status(), name);
    options.dtype = *dtype;
  }
  absl::Status unavailable;
  absl::StatusOr<std::shared_ptr<ChannelReader>> reader =
      WaitInSlices(timeout ? timeout : absl::ZeroDuration(), [&](absl::Duration slice) -> absl::StatusOr<std::shared_ptr<ChannelReader>> {
        const absl::Time began = MonotonicNow();
        options.timeout = slice;
        absl::StatusOr<ChannelReader> one = client->Subscribe(name, options);
        unavailable = absl::OkStatus();
        if (absl::IsUnavailable(one.status()) && MonotonicNow() - began >= slice) {  // it has waited in vain: not yet
          unavailable = one.status();
          return absl::NotFoundError(unavailable.message());
        }
        if (!one.ok()) return one.status();
        return std::make_shared<ChannelReader>(*std::move(one));
      });
  if (!unavailable.ok()) ThrowMutable(unavailable, name);
  if (!reader.ok()) ThrowMutable(reader.status(), name);
  return nb::cast(new ReaderObject(std::move(**reader)), nb::rv_policy::take_ownership);
}

void AddSlotType(nb::module_& module) {
  nb::class_<SlotObject>(module, "ChannelSlot", nb::is_final(),
                         "A step of a channel that is being written, in the channel's own memory.\n\n"
                         "A context manager: readers get the step when the block ends well, and never hear of it\n"
                         "if an exception comes out of it.")
      .def_prop_ro("seq", &SlotObject::seq, "Its number once it was committed; 0 before.")
      .def("numpy", &SlotObject::Numpy,
           "Its memory as a writable numpy.ndarray, whose first bytes are undefined; read-only after\n"
           "commit(). Other arrays made from it must not be written then: a later step lies there.")
      .def("commit", &SlotObject::Commit, "Makes it the newest step, at once and whole; returns its number.")
      .def("abort", &SlotObject::Abort, "Forgets it. Idempotent.")
      .def("__enter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__exit__", [](SlotObject& self, nb::handle type, nb::handle, nb::handle) {
             if (!type.is_none()) {
               self.Abort();
             } else if (self.open()) {
               self.Commit();
             }
           }, "type"_a.none(), "value"_a.none(), "traceback"_a.none());
}

void AddWriterType(nb::module_& module) {
  nb::class_<WriterObject>(module, "ChannelWriter", nb::is_final(),
                           "The one writer of a channel. A context manager: closes it at its end.\n\n"
                           "No call to the node a step. One thread at a time.")
      .def_prop_ro("name", [](const WriterObject& w) { return TextObject(w.writer().name()); }, "Its name.")
      .def_prop_ro("dtype", [](const WriterObject& w) { return nb::steal(DTypeString(w.writer().dtype())); }, "Element type by Penstock's name.")
      .def_prop_ro("shape", [](const WriterObject& w) { return ShapeTuple(w.writer().shape()); }, "Shape of a step.")
      .def_prop_ro("nbytes", [](const WriterObject& w) { return w.writer().nbytes(); }, "Bytes of a step.")
      .def_prop_ro("slots", [](const WriterObject& w) { return w.writer().slots(); }, "Steps that lie in it at a time.")
      .def_prop_ro("seq", &WriterObject::seq, "Number of the newest step; 0: none yet.")
      .def_prop_ro("closed", &WriterObject::closed, "Whether it can be written no more.")
      .def("write", &WriterObject::Write, "The memory of the next step: `with ch.write() as slot: slot.numpy()[...] = x`.")
      .def("put", &WriterObject::Put, "tensor"_a.none(),
           "Writes a whole step with one copy; returns its number. Takes what Store.put takes, of the\n"
           "channel's dtype and shape.")
      .def("close", &WriterObject::Close, "Ends the channel: readers are told, the name is free. Idempotent.")
      .def("__enter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__exit__", [](WriterObject& self, nb::handle, nb::handle, nb::handle) { self.Close(); }, "type"_a.none(),
           "value"_a.none(), "traceback"_a.none())
      .def("__repr__", [](const WriterObject& w) {
        return TextObject(StrCat("ChannelWriter(name='", w.writer().name(), "', dtype='", DTypeName(w.writer().dtype()), "', shape=",
                                 w.writer().shape().ToString(), ", seq=", w.seq(), ")"));
      });
}

void AddReaderTypes(nb::module_& module) {
  nb::class_<StepObject>(module, "ChannelStep", nb::is_final(), "One step of a channel, where it lies: the writer goes on, and may come round.")
      .def_prop_ro("seq", [](const StepObject& s) { return s.step.seq(); }, "Its number; the first step of a channel is 1.")
      .def_prop_ro("missed", [](const StepObject& s) { return s.step.missed(); },
                   "How many steps the reader did not get between the one before and this one.")
      .def_prop_ro("nbytes", [](const StepObject& s) { return s.step.nbytes(); }, "Its bytes.")
      .def("numpy", &StepObject::Numpy, "It as a read-only numpy.ndarray, without a copy.")
      .def("__array__", &StepObject::Array, "dtype"_a = nb::none(), "copy"_a = nb::none())
      .def("ok", [](const StepObject& s) { return s.step.Ok(); },
           "Whether its memory still shows this step, whole. Ask after the last look at it: if not, what\n"
           "was seen is worth nothing.");
  nb::class_<ReaderObject>(module, "ChannelReader", nb::is_final(),
                           "A reader of a channel. A context manager: closes at its end.\n\n"
                           "No call to the node a step. UnavailableError: the channel was closed or its writer died, and\n"
                           "all steps that this reader can have were given; or, while `closed` is False, the node that has the\n"
                           "channel is not heard: it goes on by itself when that is back.")
      .def_prop_ro("name", [](const ReaderObject& r) { return TextObject(r.name()); }, "Name of the channel.")
      .def_prop_ro("dtype", [](const ReaderObject& r) { return nb::steal(DTypeString(r.geometry().dtype)); }, "Element type by Penstock's name.")
      .def_prop_ro("shape", [](const ReaderObject& r) { return ShapeTuple(r.geometry().shape); }, "Shape of a step.")
      .def_prop_ro("slots", &ReaderObject::slots, "A step stays whole until the writer has begun so many further ones.")
      .def_prop_ro("missed", &ReaderObject::missed, "How many steps it did not get, in all.")
      .def_prop_ro("closed", &ReaderObject::closed, "Whether no further step will come.")
      .def("latest", &ReaderObject::Latest, "The newest step, also if it was given before; None while there is none.")
      .def("next", &ReaderObject::Next, "timeout"_a = nb::none(),
           "The step after the one that was given last; waits for it. First the newest one there is. A\n"
           "reader that is too slow gets the oldest that is whole, and its `missed` tells how many are gone.\n"
           "timeout: seconds, None = for ever. Raises DeadlineError.")
      .def("read_into", &ReaderObject::ReadInto, "out"_a.none(), nb::kw_only(), "next"_a = false, "timeout"_a = nb::none(),
           "Copies a step into the writable array `out`, never a torn one; returns its number, or None while\n"
           "there is none. next: the one after that which was given last, as next(timeout).")
      .def("close", &ReaderObject::Close, "Ends this reader; steps and arrays stay good. Idempotent.")
      .def("__enter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__exit__", [](ReaderObject& self, nb::handle, nb::handle, nb::handle) { self.Close(); }, "type"_a.none(),
           "value"_a.none(), "traceback"_a.none())
      .def("__repr__", [](const ReaderObject& r) {
        return TextObject(StrCat("ChannelReader(name='", r.name(), "', dtype='", DTypeName(r.geometry().dtype), "', shape=",
                                 r.geometry().shape.ToString(), ")"));
      });
}

}  // namespace

void AddChannelTypes(nb::module_& module) {
  AddSlotType(module);
  AddWriterType(module);
  AddReaderTypes(module);
}

void AddStoreChannels(StoreClass& type) {
  type.def("channel", OpenChannel, "name"_a.none(), "shape"_a.none(), "dtype"_a.none(), "slots"_a = 8,
           "A channel for values that change all the time, as its writer: a ring of `slots` steps.\n\n"
           "It ends when it is closed, or with this process. Raises AlreadyExistsError when somebody writes it,\n"
           "InvalidArgumentError, StoreFullError. Returns ChannelWriter.");
  type.def("subscribe", Subscribe, "name"_a.none(), "timeout"_a = nb::none(), nb::kw_only(), "shape"_a = nb::none(), "dtype"_a = nb::none(),
           "A reader of a channel of this host or, if none has the name here, of another node's; any number may\n"
           "read one. Between nodes, steps keep their numbers; what the link is too slow for is missed.\n\n"
           "timeout: seconds to wait for the channel to appear, or its node to be heard; None = not at all.\n"
           "shape, dtype: checked if given. Raises NotFoundError, InvalidArgumentError, StoreFullError (no room\n"
           "here for a channel of another node), UnavailableError (a node cannot be asked), TransportError\n"
           "(RDMA is required: steps come over TCP). Returns ChannelReader.");
}

}  // namespace penstock::python
