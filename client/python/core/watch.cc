#include "client/python/core/watch.h"

#include <atomic>
#include <deque>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "client/python/core/info.h"
#include "client/python/core/options.h"
#include "client/python/core/owned.h"
#include "client/python/core/raise.h"
#include "transport/monotonic.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;

// (kind, info, sequence, time, text)
nb::object EventTuple(TensorEvent&& event) {
  const std::string_view kind = EventKindName(event.kind);
  const double time = absl::ToDoubleSeconds(event.time - absl::UnixEpoch());
  return nb::make_tuple(nb::str(kind.data(), kind.size()),
                        nb::steal(NewInfo(std::move(event.info))), event.sequence, time,
                        nb::str(event.text.data(), event.text.size()));
}

class WatchObject {
 public:
  WatchObject(std::shared_ptr<Client> client, std::unique_ptr<Watcher> watcher)
      : client_(std::move(client)), watcher_(std::move(watcher)) {}

  // The next event; None when the watch was closed or the time is over.
  nb::object Next(nb::object timeout_object) {
    const std::optional<absl::Duration> timeout = SecondsArgument(timeout_object, "timeout");
    const absl::Time end = MonotonicNow() + timeout.value_or(absl::InfiniteDuration());
    for (;;) {
      const absl::Duration left = std::max(end - MonotonicNow(), absl::ZeroDuration());
      absl::Status status;
      std::optional<TensorEvent> event;
      {
        WithoutGil without_gil;
        status = Step(std::min(left, absl::Milliseconds(100)), &event);
      }
      if (!status.ok()) ThrowStatus(status);
      if (event.has_value()) return EventTuple(*std::move(event));
      if (closed_ || left <= absl::ZeroDuration()) return nb::none();
      if (PyErr_CheckSignals() != 0) ThrowPythonError();
    }
  }

  void Close() { closed_ = true; }
  bool closed() const { return closed_; }

 private:
  absl::Status Step(absl::Duration slice, std::optional<TensorEvent>* event) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return absl::OkStatus();
    if (pending_.empty()) {
      absl::StatusOr<std::vector<TensorEvent>> events = watcher_->Next(slice);
      if (!events.ok()) return events.status();
      for (TensorEvent& next : *events) pending_.push_back(std::move(next));
    }
    if (pending_.empty()) return absl::OkStatus();
    *event = std::move(pending_.front());
    pending_.pop_front();
    return absl::OkStatus();
  }

  const std::shared_ptr<Client> client_;
  std::mutex mutex_;
  const std::unique_ptr<Watcher> watcher_;  // guarded by mutex_
  std::deque<TensorEvent> pending_;         // guarded by mutex_
  std::atomic<bool> closed_{false};
};

}  // namespace

nb::object NewWatch(std::shared_ptr<Client> client, std::unique_ptr<Watcher> watcher) {
  return nb::cast(new WatchObject(std::move(client), std::move(watcher)),
                  nb::rv_policy::take_ownership);
}

void AddWatchType(nb::module_& module) {
  nb::class_<WatchObject>(module, "Watch", nb::is_final())
      .def("next", &WatchObject::Next, nb::arg("timeout").none())
      .def("close", &WatchObject::Close)
      .def_prop_ro("closed", &WatchObject::closed);
}

}  // namespace penstock::python
