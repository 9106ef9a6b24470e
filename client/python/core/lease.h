// A pin that many owners share: Python views, arrays made from them, DLPack capsules.
//
// An array must keep its tensor alive after the view it came from was released or collected, and a
// DLPack consumer may drop its share on any thread, after the interpreter is gone. So the C++ view
// lies in a counted struct of its own, without anything of Python in it.
//
// Threading:  Share and Drop: any thread, without the GIL. The view in it: read by any thread that
//             holds a share; CopyOnWrite takes a lock.
// Ownership:  born with one share; the last Drop releases the pin.
// Errors:     CopyOnWrite as TensorView::CopyOnWriteData.
// Limits:     about 400 bytes; one allocation.
#pragma once

#include <penstock/client.h>

#include <atomic>
#include <cstddef>
#include <mutex>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace penstock::python {

class Lease {
 public:
  static Lease* Hold(TensorView&& view) { return new Lease(std::move(view)); }

  // Client::GetWarm straight into a lease; null when that does not answer.
  static Lease* GetWarm(Client* client, std::string_view name) {
    auto* lease = new Lease(TensorView());
    if (client->GetWarm(name, &lease->view_)) return lease;
    delete lease;
    return nullptr;
  }

  Lease* Share() {
    shares_.fetch_add(1, std::memory_order_relaxed);
    return this;
  }
  void Drop() {
    if (shares_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  const TensorView& view() const { return view_; }

  absl::StatusOr<std::byte*> CopyOnWrite() {
    std::lock_guard<std::mutex> lock(mutex_);
    return view_.CopyOnWriteData();
  }

 private:
  explicit Lease(TensorView&& view) : view_(std::move(view)) {}
  ~Lease() = default;

  std::atomic<uint32_t> shares_{1};
  std::mutex mutex_;
  TensorView view_;
};

}  // namespace penstock::python
