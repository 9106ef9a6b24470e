// penstock._core.SnapshotWriter, and the store's calls about snapshots, on which penstock/snapshot.py builds.
//
// Threading:  a writer: one thread at a time. The calls: any thread.
// Ownership:  a writer holds the client; what it has put is deleted when it goes without commit().
// Errors:     as Python exceptions, from Status.
// Limits:     calls let the GIL go; waits for other ranks look for Ctrl-C.
#pragma once

#include <nanobind/nanobind.h>

#include "client/python/core/store.h"

namespace penstock::python {

void AddSnapshotType(nanobind::module_& module);
void AddStoreSnapshots(StoreClass& type);

}  // namespace penstock::python
