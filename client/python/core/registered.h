// penstock.RegisteredMemory: an array of the user's that reads by RDMA go into without registering it each time.
//
// Threading:  with the GIL; registering lets it go.
// Ownership:  keeps the array alive until released.
// Errors:     Python exceptions: TypeError for what is no array, InvalidArgumentError for one that is not writable or not in
//             C order.
// Limits:     host memory only.
#pragma once

#include <nanobind/nanobind.h>

#include "client/python/core/store.h"

namespace penstock::python {

void AddRegisteredType(nanobind::module_& module);
void AddStoreRegister(StoreClass& type);

}  // namespace penstock::python
