// PrivateTensor: a part of another node's tensor in memory of this process's own, for views of it.
//
// Looks like a pinned record to TensorView (name, version, dtype and shape of the whole tensor), so that a view does not ask
// where its bytes came from.
//
// Threading:  made by one thread; references: any thread
// Ownership:  counted; the views hold it. A forked child has a copy of its own
// Errors:     RESOURCE_EXHAUSTED no memory
// Limits:     at least a page
#ifndef PENSTOCK_CLIENT_PRIVATE_TENSOR_H_
#define PENSTOCK_CLIENT_PRIVATE_TENSOR_H_

#include <penstock/client.h>

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/layout/catalog_layout.h"
#include "store.pb.h"
#include "transport/segment/mapping.h"

namespace penstock::client {

class alignas(64) PrivateTensor {
 public:
  struct Unreference {
    void operator()(PrivateTensor* tensor) const { tensor->Unref(); }
  };
  using Pointer = std::unique_ptr<PrivateTensor, Unreference>;

  // With room for `bytes`, to be filled.
  static absl::StatusOr<Pointer> Make(const v1::TensorInfo& info, uint64_t bytes);
  static PrivateTensor* Of(const layout::Record* record) {
    return const_cast<PrivateTensor*>(reinterpret_cast<const PrivateTensor*>(record) - 1);
  }

  char* data() { return memory_.data(); }
  const std::string& path() const { return path_; }
  const std::string& node() const { return node_; }

  void Ref() { references_.fetch_add(1, std::memory_order_relaxed); }
  void Unref();

  // The bytes are there, and came by `path`: from now on they are read-only. Takes over the reference.
  static TensorView View(Pointer tensor, Session* session, std::string path, const Shape& shape);

 private:
  PrivateTensor() = default;
  ~PrivateTensor() = default;
  layout::Record* record() { return reinterpret_cast<layout::Record*>(this + 1); }

  std::atomic<uint32_t> references_{1};
  std::string path_;
  std::string node_;
  Mapping memory_;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_PRIVATE_TENSOR_H_
