#include "client/python/core/store.h"

namespace penstock::python {

void Store::ThrowClosed() {
  ThrowStatus(absl::InvalidArgumentError("store: it was closed; connect again"));
}

void Store::Close() {
  std::shared_ptr<Client> client = std::move(client_);
  client_ = nullptr;
  WithoutGil without_gil;
  client.reset();
}

}  // namespace penstock::python
