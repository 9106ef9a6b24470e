// penstock._core.Watch: the events under a prefix, one by one.
//
// Threading:  next(): one thread at a time (others wait). close(): any thread; ends a waiting
// next(). Ownership:  holds the client; lives on after Store.close(). Errors:     next() raises
// what the watcher reports. Limits:     a waiting next() looks ten times a second for close() and
// Ctrl-C.
#pragma once

#include <nanobind/nanobind.h>
#include <penstock/client.h>

#include <memory>

namespace penstock::python {

nanobind::object NewWatch(std::shared_ptr<Client> client, std::unique_ptr<Watcher> watcher);

void AddWatchType(nanobind::module_& module);

}  // namespace penstock::python
