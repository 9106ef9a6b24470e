// The extension module penstock._core: opens stores and ties the types together.
#define PENSTOCK_IMPORTS_NUMPY
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "client/python/core/draft.h"
#include "client/python/core/fault_messages.h"
#include "client/python/core/info.h"
#include "client/python/core/keeper.h"
#include "client/python/core/mutable.h"
#include "client/python/core/numpy_api.h"
#include "client/python/core/numpy_dtypes.h"
#include "client/python/core/options.h"
#include "client/python/core/registered.h"
#include "client/python/core/snapshot.h"
#include "client/python/core/store.h"
#include "client/python/core/tensor_file.h"
#include "client/python/core/view_object.h"
#include "client/python/core/watch.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;
using nb::literals::operator""_a;

bool ImportNumpy() { return _import_array() >= 0; }

void OpenStore(Store* self, nb::object address, nb::object timeout, nb::object label,
               nb::object require_transport, nb::object tenant, nb::object tls_ca, nb::object tls_cert, nb::object tls_key) {
  ClientOptions options;
  if (!address.is_none()) options.address = std::string(TextArgument(address, "address"));
  if (!label.is_none()) options.label = std::string(TextArgument(label, "label"));
  if (auto seconds = SecondsArgument(timeout, "timeout")) options.timeout = *seconds;
  if (!require_transport.is_none()) {
    options.require_transport = std::string(TextArgument(require_transport, "require_transport"));
  }
  if (!tenant.is_none()) options.tenant = std::string(TextArgument(tenant, "tenant"));
  if (!tls_ca.is_none()) options.tls.ca = std::string(TextArgument(tls_ca, "tls: ca"));
  if (!tls_cert.is_none()) options.tls.cert = std::string(TextArgument(tls_cert, "tls: cert"));
  if (!tls_key.is_none()) options.tls.key = std::string(TextArgument(tls_key, "tls: key"));
  absl::StatusOr<std::unique_ptr<Client>> client = absl::UnknownError("");
  {
    WithoutGil without_gil;
    client = Client::Connect(options);
  }
  if (!client.ok()) ThrowStatus(client.status());
  new (self) Store(*std::move(client));
}

void AddStoreType(nb::module_& module) {
  StoreClass type(module, "Store");
  type.def("__init__", OpenStore, "address"_a = nb::none(), nb::kw_only(), "timeout"_a.none() = 5.0,
           "label"_a = nb::none(), "require_transport"_a = nb::none(), "tenant"_a = nb::none(), "tls_ca"_a = nb::none(), "tls_cert"_a = nb::none(),
           "tls_key"_a = nb::none());
  type.def("close", &Store::Close,
           "Ends this object's use of the store. Views and drafts stay valid. Idempotent.");
  type.def_prop_ro(
      "closed", [](const Store& s) { return s.client() == nullptr; },
      "Whether close() was called.");
  type.def_prop_ro(
      "address", [](const Store& s) { return s.Use()->address(); },
      "The address that was connected to.");
  type.def_prop_ro(
      "session_id", [](const Store& s) { return s.Use()->session_id(); },
      "Number of this session, as `penstock sessions` shows it.");
  AddStoreGet(type);
  AddStoreReads(type);
  AddStoreRegister(type);
  AddStoreWrites(type);
  AddStoreLooks(type);
  AddStoreCalls(type);
  AddStoreSnapshots(type);
  AddStoreChannels(type);
  AddStoreRegions(type);
}

nb::object CanonicalDType(nb::object object) {
  const absl::StatusOr<DType> dtype = ToDType(object.ptr());
  if (!dtype.ok()) ThrowStatus(dtype.status());
  return nb::steal(DTypeString(*dtype));
}

nb::object NumpyDType(nb::object object) {
  const absl::StatusOr<DType> dtype = ToDType(object.ptr());
  if (!dtype.ok()) ThrowStatus(dtype.status());
  PyArray_Descr* descr = NumpyDescr(*dtype);
  if (descr == nullptr) ThrowPythonError();
  return nb::borrow(reinterpret_cast<PyObject*>(descr));
}

void EnableFaultMessages() {
  if (absl::Status status = InstallFaultMessages(); !status.ok()) ThrowStatus(status);
}

}  // namespace

NB_MODULE(_core, module) {
  if (!ImportNumpy() || !AddKeeperType(module.ptr()) || !AddViewType(module.ptr()))
    ThrowPythonError();
  AddInfoType(module);
  AddDraftType(module);
  AddRegisteredType(module);
  AddWatchType(module);
  AddSnapshotType(module);
  AddChannelTypes(module);
  AddRegionTypes(module);
  AddStoreType(module);
  AddTensorFileType(module);
  AddSafetensorsWriter(module);
  module.def("dtype_name", CanonicalDType, "dtype"_a.none());
  module.def("numpy_dtype", NumpyDType, "dtype"_a.none());
  module.def("_install_fault_messages", EnableFaultMessages);
}

}  // namespace penstock::python
