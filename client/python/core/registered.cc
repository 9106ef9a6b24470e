#include "client/python/core/registered.h"

#include <utility>

#include "client/python/core/incoming.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;

class RegisteredArray {
 public:
  RegisteredArray(Incoming array, RegisteredMemory memory) : array_(std::move(array)), memory_(std::move(memory)) {}

  uint64_t nbytes() const { return memory_.nbytes(); }
  nb::object Lanes() const {
    nb::list names;
    for (const std::string& name : memory_.lanes()) names.append(nb::str(name.c_str()));
    return names;
  }
  void Release() {
    memory_.Release();
    array_.reset();
  }

 private:
  std::optional<Incoming> array_;  // outlives the registration
  RegisteredMemory memory_;
};

nb::object Register(const Store& store, nb::object object) {
  const std::shared_ptr<Client> client = store.Use();
  Incoming array;
  if (!array.Read(object.ptr(), "array")) ThrowPythonError();
  const Layout layout = array.layout();
  if (!array.writable() || !layout.c_contiguous()) {
    ThrowStatus(absl::InvalidArgumentError(StrCat("array: ", TypeName(object.ptr()), " is not ", array.writable() ? "in C order" : "writable memory",
                                                  "; allowed is a writable array in C order")));
  }
  char* const bytes = const_cast<char*>(reinterpret_cast<const char*>(layout.data));
  absl::StatusOr<RegisteredMemory> memory = absl::UnknownError("");
  {
    WithoutGil without_gil;
    memory = client->Register({bytes, static_cast<size_t>(layout.nbytes())});
  }
  if (!memory.ok()) ThrowStatus(memory.status());
  return nb::cast(new RegisteredArray(std::move(array), *std::move(memory)), nb::rv_policy::take_ownership);
}

}  // namespace

void AddRegisteredType(nb::module_& module) {
  nb::class_<RegisteredArray>(module, "RegisteredMemory", nb::is_final(),
                              "An array that was registered for reads by RDMA: get(out=) into a part of it registers\n"
                              "nothing. A context manager: releases at its end. Keeps the array alive until then.")
      .def_prop_ro("nbytes", &RegisteredArray::nbytes, "Bytes that are registered; 0 after release().")
      .def_prop_ro("lanes", &RegisteredArray::Lanes,
                   "What it is registered with: ['rdma'], or [] where no RDMA is in use, and after release().")
      .def("release", &RegisteredArray::Release, "Ends the registration, once reads into it are over. Idempotent.")
      .def("__enter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__exit__", [](RegisteredArray& self, nb::handle, nb::handle, nb::handle) { self.Release(); }, nb::arg("type").none(),
           nb::arg("value").none(), nb::arg("traceback").none());
}

void AddStoreRegister(StoreClass& type) {
  type.def("register", Register, nb::arg("array"),
           "Registers a writable array in C order for many reads: get(out=) into it, or into parts of it,\n"
           "goes without the cost of registering memory, some 5 ms a GiB, each time. Returns\n"
           "RegisteredMemory, whose lanes are [] where no RDMA is in use: then nothing is registered.\n"
           "Raises InvalidArgumentError, StoreFullError when the limit of locked memory is too low.");
}

}  // namespace penstock::python
