#include "client/python/core/draft.h"

#include <atomic>
#include <utility>

#include "client/python/core/arrays.h"
#include "client/python/core/dlpack_export.h"
#include "client/python/core/info.h"
#include "client/python/core/keeper.h"
#include "client/python/core/numpy_dtypes.h"
#include "client/python/core/owned.h"
#include "client/python/core/raise.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;

// What arrays over a draft share. Nothing of Python in it: DLPack consumers drop it anywhere.
struct DraftMemory {
  std::atomic<uint32_t> shares{1};
  Draft draft;     // valid until it is published; its end aborts it
  TensorView pin;  // of the published tensor, while arrays are alive

  void Drop() {
    if (shares.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
};

void DropMemory(void* memory) { static_cast<DraftMemory*>(memory)->Drop(); }

enum class DraftState { kOpen, kPublished, kAborted };

class DraftObject {
 public:
  DraftObject(std::shared_ptr<Client> client, std::string name, Draft&& draft)
      : client_(std::move(client)),
        name_(std::move(name)),
        dtype_(draft.dtype()),
        shape_(draft.shape()),
        strides_(ContiguousStrides(dtype_, shape_)),
        memory_(new DraftMemory) {
    memory_->draft = std::move(draft);
  }
  DraftObject(const DraftObject&) = delete;
  DraftObject& operator=(const DraftObject&) = delete;
  ~DraftObject() { DropShare(); }

  const std::string& name() const { return name_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  uint64_t nbytes() const {
    return static_cast<uint64_t>(shape_.num_elements()) *
           static_cast<uint64_t>(BitsPerElement(dtype_)) / 8;
  }
  DraftState state() const { return state_; }

  nb::object Numpy() const { return Array(Elements()); }

  nb::object Bytes() const {
    const int64_t count = static_cast<int64_t>(nbytes());
    const int64_t stride = 1;
    const nb::object array = Array({Elements().data, &count, &stride, 1, DType::kU8});
    return nb::steal(PyMemoryView_FromObject(array.ptr()));
  }

  nb::object Torch() const {
    const Layout layout = Elements();
    return nb::steal(
        TorchFromCapsule(MakeCapsule(layout, Share(), DropMemory, {.read_only = false})));
  }

  nb::object Publish() {
    CheckOpen("publish");
    state_ = DraftState::kPublished;  // before the GIL goes: a second publish or abort stops there
    absl::StatusOr<TensorInfo> info = absl::UnknownError("");
    {
      WithoutGil without_gil;
      info = std::move(memory_->draft).Publish();
      // Arrays over the memory live on: as long as they do, the block must not be used again.
      if (info.ok() && memory_->shares.load() > 1) Pin(info->version.number);
    }
    if (!info.ok()) {
      state_ = memory_->draft.valid() ? DraftState::kOpen : DraftState::kAborted;
      ThrowStatus(info.status(), name_);
    }
    DropShare();
    return nb::steal(NewInfo(*std::move(info)));
  }

  void Abort() {
    if (state_ != DraftState::kOpen) return;
    state_ = DraftState::kAborted;
    DropShare();
  }

 private:
  void Pin(uint64_t version) {
    GetOptions options;
    options.version = version;
    absl::StatusOr<TensorView> view = client_->Get(name_, options);
    if (view.ok()) memory_->pin = *std::move(view);
  }

  void DropShare() {
    if (DraftMemory* memory = std::exchange(memory_, nullptr)) {
      if (PyGILState_Check() == 0) return memory->Drop();
      WithoutGil without_gil;  // an abort asks the node
      memory->Drop();
    }
  }

  void CheckOpen(const char* operation) const {
    if (state_ == DraftState::kOpen) return;
    ThrowStatus(absl::InvalidArgumentError(
                    StrCat(operation, ": the draft of \"", name_, "\" was ",
                           state_ == DraftState::kPublished ? "published" : "aborted", " before")),
                name_);
  }

  void* Share() const {
    memory_->shares.fetch_add(1, std::memory_order_relaxed);
    return memory_;
  }

  Layout Elements() const {
    CheckOpen("draft");
    alignas(64) static std::byte nothing[64];
    void* data = memory_->draft.data();
    return {data != nullptr ? static_cast<std::byte*>(data) : nothing, shape_.dims().data(),
            strides_.data(), shape_.rank(), dtype_};
  }

  nb::object Array(const Layout& layout) const {
    nb::object array = nb::steal(NewArray(layout, ArrayAccess::kWritable));
    if (!array.is_valid()) ThrowPythonError();
    PyObject* keeper = NewKeeper(Share(), DropMemory);
    if (keeper == nullptr ||
        PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array.ptr()), keeper) != 0) {
      ThrowPythonError();
    }
    return array;
  }

  const std::shared_ptr<Client> client_;
  const std::string name_;
  const DType dtype_;
  const Shape shape_;
  const Strides strides_;
  DraftState state_ = DraftState::kOpen;
  DraftMemory* memory_;
};

nb::object ShapeOf(const DraftObject& draft) {
  nb::object tuple = nb::steal(PyTuple_New(draft.shape().rank()));
  for (int i = 0; i < draft.shape().rank(); ++i) {
    PyTuple_SET_ITEM(tuple.ptr(), i, PyLong_FromLongLong(draft.shape().dim(i)));
  }
  return tuple;
}

nb::object Text(std::string_view text) {
  return nb::steal(PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}

std::string_view StateName(DraftState state) {
  return state == DraftState::kOpen        ? "open"
         : state == DraftState::kPublished ? "published"
                                           : "aborted";
}

nb::object Repr(const DraftObject& draft) {
  return Text(StrCat("Draft(name='", draft.name(), "', dtype='", DTypeName(draft.dtype()),
                     "', shape=", draft.shape().ToString(), ", ", StateName(draft.state()), ")"));
}

// Ends the block: publishes, or aborts when an exception came out of it.
bool Exit(DraftObject& draft, nb::handle type, nb::handle, nb::handle) {
  if (!type.is_none()) {
    draft.Abort();
  } else if (draft.state() == DraftState::kOpen) {
    draft.Publish();
  }
  return false;
}

}  // namespace

nb::object NewDraft(std::shared_ptr<Client> client, std::string name, Draft&& draft) {
  return nb::cast(new DraftObject(std::move(client), std::move(name), std::move(draft)),
                  nb::rv_policy::take_ownership);
}

void AddDraftType(nb::module_& module) {
  nb::class_<DraftObject>(module, "Draft", nb::is_final(),
                          "A tensor that is still being written, in the store's own memory.\n\n"
                          "Invisible until published. A context manager: publishes when the block\n"
                          "ends well, aborts on an exception.")
      .def_prop_ro(
          "name", [](const DraftObject& d) { return Text(d.name()); }, "Its name.")
      .def_prop_ro(
          "dtype", [](const DraftObject& d) { return nb::steal(DTypeString(d.dtype())); },
          "Element type by Penstock's name.")
      .def_prop_ro("shape", ShapeOf, "Elements per dimension.")
      .def_prop_ro(
          "nbytes", [](const DraftObject& d) { return d.nbytes(); }, "Bytes to be written.")
      .def_prop_ro(
          "state", [](const DraftObject& d) { return Text(StateName(d.state())); },
          "'open', 'published' or 'aborted'.")
      .def(
          "numpy", [](const DraftObject& d) { return d.Numpy(); },
          "Its memory as a writable numpy.ndarray. Writing to it after publish() faults.")
      .def(
          "torch", [](const DraftObject& d) { return d.Torch(); },
          "Its memory as a writable CPU torch.Tensor.")
      .def(
          "memoryview", [](const DraftObject& d) { return d.Bytes(); },
          "Its memory as a writable, flat memoryview of bytes.")
      .def("publish", &DraftObject::Publish,
           "Makes the tensor visible, whole and at once; returns TensorInfo. Raises ConflictError "
           "or\n"
           "AlreadyExistsError when a condition does not hold.")
      .def("abort", &DraftObject::Abort,
           "Gives the memory back, once arrays made from it are gone; nothing becomes visible.")
      .def("__enter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__exit__", Exit, nb::arg("type").none(), nb::arg("value").none(),
           nb::arg("traceback").none())
      .def("__repr__", Repr);
}

}  // namespace penstock::python
