// penstock._core.Store: the client of one Python Store object.
//
// penstock/store.py builds the public class on it. The calls are split over store_*.cc; each adds
// its methods to the class.
//
// Threading:  any thread. The client is held by a shared pointer, so that close() in one thread
// does
//             not pull it away under a call of another.
// Ownership:  views, drafts and watches live on after close().
// Errors:     as Python exceptions, from Status or with a text of ours.
// Limits:     calls that may wait let the GIL go; waits of more than a moment look for Ctrl-C ten
//             times a second.
#pragma once

#include <nanobind/nanobind.h>
#include <penstock/client.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "client/python/core/owned.h"
#include "client/python/core/raise.h"
#include "transport/monotonic.h"

namespace penstock::python {

class Store {
 public:
  explicit Store(std::shared_ptr<Client> client) : client_(std::move(client)) {}

  // Throws when the store was closed.
  std::shared_ptr<Client> Use() const {
    if (client_ == nullptr) ThrowClosed();
    return client_;
  }
  Client* client() const { return client_.get(); }
  void Close();

 private:
  [[noreturn]] static void ThrowClosed();

  std::shared_ptr<Client> client_;
};

using StoreClass = nanobind::class_<Store>;

void AddStoreReads(StoreClass& type);   // store_read.cc
void AddStoreWrites(StoreClass& type);  // store_write.cc
void AddStoreLooks(StoreClass& type);   // store_look.cc
void AddStoreCalls(StoreClass& type);   // store_call.cc
// Store.get, as a plain CPython method: nanobind's argument handling would double its cost.
void AddStoreGet(StoreClass& type);  // store_get.cc

// Repeats `step(slice)` without the GIL until it gives something else than one of the two codes
// that mean "not yet", or until the time is over; between two steps Ctrl-C is looked for.
template <class Step>
auto WaitInSlices(std::optional<absl::Duration> timeout, Step step)
    -> decltype(step(absl::Duration())) {
  // Only the main thread gets signals. Of others there may be thousands.
  const absl::Duration slice = gettid() == getpid() ? absl::Milliseconds(100) : absl::Seconds(1);
  const absl::Time end = MonotonicNow() + timeout.value_or(absl::InfiniteDuration());
  for (;;) {
    const absl::Duration left = std::max(end - MonotonicNow(), absl::ZeroDuration());
    decltype(step(absl::Duration())) result = absl::UnknownError("");
    {
      WithoutGil without_gil;
      result = step(std::min(left, slice));
    }
    const bool not_yet =
        absl::IsDeadlineExceeded(result.status()) || absl::IsNotFound(result.status());
    if (result.ok() || !not_yet || MonotonicNow() >= end) return result;
    if (PyErr_CheckSignals() != 0) ThrowPythonError();
  }
}

}  // namespace penstock::python
