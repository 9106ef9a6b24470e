#include "client/c/penstock.h"

#include <penstock/client.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "proto/errors.h"
#include "proto/strcat.h"

using penstock::Shape;

struct penstock_client {
  std::unique_ptr<penstock::Client> client;
};
struct penstock_view {
  penstock::TensorView view;
};
struct penstock_draft {
  penstock::Draft draft;
};

namespace {

penstock_status Fail(const absl::Status& status, penstock_error* error) {
  const auto code = static_cast<penstock_status>(penstock::KindOf(status));
  if (error != nullptr) {
    error->status = code;
    const size_t bytes = std::min(status.message().size(), sizeof(error->message) - 1);
    memcpy(error->message, status.message().data(), bytes);
    error->message[bytes] = '\0';
  }
  return code;
}

penstock_status Succeed(penstock_error* error) {
  if (error != nullptr) {
    error->status = PENSTOCK_OK;
    error->message[0] = '\0';
  }
  return PENSTOCK_OK;
}

penstock_status Null(const char* what, penstock_error* error) {
  return Fail(absl::InvalidArgumentError(penstock::StrCat(what, " is NULL")), error);
}

absl::StatusOr<Shape> ShapeFrom(int32_t rank, const int64_t* shape) {
  if (rank < 0 || rank > penstock::kMaxRank) {
    return absl::InvalidArgumentError(
        penstock::StrCat("rank ", rank, " must be from 0 to ", penstock::kMaxRank));
  }
  if (rank > 0 && shape == nullptr) return absl::InvalidArgumentError("shape is NULL");
  return Shape::Create(absl::MakeConstSpan(shape, static_cast<size_t>(rank)));
}

absl::StatusOr<penstock::DType> DTypeFrom(const char* name) {
  if (name == nullptr) return absl::InvalidArgumentError("dtype is NULL");
  return penstock::ParseDType(name);
}

penstock::PutOptions OptionsFrom(const penstock_put_options* options) {
  penstock::PutOptions out;
  if (options == nullptr) return out;
  out.keep = options->cache == 0;
  out.soft_pin = options->cache == PENSTOCK_CACHE_SOFT_PIN;
  if (options->ttl_seconds != 0) out.ttl = absl::Seconds(options->ttl_seconds);
  out.version = options->version;
  out.if_absent = options->if_absent != 0;
  if (options->use_if_version != 0) out.if_version = options->if_version;
  return out;
}

template <class T>
void Store(T* where, T value) {
  if (where != nullptr) *where = value;
}

}  // namespace

penstock_status penstock_connect(const char* address, double timeout_seconds,
                                 penstock_client** client, penstock_error* error) {
  if (client == nullptr) return Null("client", error);
  penstock::ClientOptions options;
  if (address != nullptr) options.address = address;
  if (timeout_seconds != 0) options.timeout = absl::Seconds(timeout_seconds);
  auto connected = penstock::Client::Connect(options);
  if (!connected.ok()) return Fail(connected.status(), error);
  *client = new penstock_client{*std::move(connected)};
  return Succeed(error);
}

void penstock_close(penstock_client* client) { delete client; }

penstock_status penstock_get(penstock_client* client, const char* name, penstock_view** view,
                             penstock_error* error) {
  return penstock_get_version(client, name, 0, 0, view, error);
}

penstock_status penstock_get_version(penstock_client* client, const char* name, uint64_t version,
                                     double wait_seconds, penstock_view** view,
                                     penstock_error* error) {
  if (client == nullptr || name == nullptr || view == nullptr) {
    return Null("client, name or view", error);
  }
  penstock::GetOptions options;
  if (version != 0) options.version = version;
  if (wait_seconds > 0) options.wait = absl::Seconds(wait_seconds);
  auto got = client->client->Get(name, options);
  if (!got.ok()) return Fail(got.status(), error);
  *view = new penstock_view{*std::move(got)};
  return Succeed(error);
}

penstock_status penstock_view_slice(const penstock_view* view, const int64_t* offset,
                                    const int64_t* extent, penstock_view** slice,
                                    penstock_error* error) {
  if (view == nullptr || slice == nullptr) return Null("view or slice", error);
  const auto rank = static_cast<size_t>(view->view.shape().rank());
  if (rank > 0 && (offset == nullptr || extent == nullptr)) return Null("offset or extent", error);
  const penstock::Box box{penstock::Dims(absl::MakeConstSpan(offset, rank)),
                          penstock::Dims(absl::MakeConstSpan(extent, rank))};
  auto made = view->view.Slice(box);
  if (!made.ok()) return Fail(made.status(), error);
  *slice = new penstock_view{*std::move(made)};
  return Succeed(error);
}

void penstock_view_release(penstock_view* view) { delete view; }

const void* penstock_view_data(const penstock_view* view) { return view->view.data(); }
uint64_t penstock_view_nbytes(const penstock_view* view) { return view->view.nbytes(); }
const char* penstock_view_dtype(const penstock_view* view) {
  return penstock::DTypeName(view->view.dtype()).data();  // a literal
}
int32_t penstock_view_rank(const penstock_view* view) { return view->view.shape().rank(); }
const int64_t* penstock_view_shape(const penstock_view* view) {
  return view->view.shape().dims().data();
}
const int64_t* penstock_view_strides(const penstock_view* view) {
  return view->view.strides().data();
}
int32_t penstock_view_contiguous(const penstock_view* view) {
  return view->view.contiguous() ? 1 : 0;
}
uint64_t penstock_view_version(const penstock_view* view) { return view->view.version().number; }

penstock_status penstock_read_into(penstock_client* client, const char* name, void* out,
                                   uint64_t out_bytes, penstock_error* error) {
  if (client == nullptr || name == nullptr) return Null("client or name", error);
  const auto info = client->client->ReadInto(name, out, out_bytes);
  return info.ok() ? Succeed(error) : Fail(info.status(), error);
}

penstock_status penstock_put(penstock_client* client, const char* name,
                             const penstock_tensor* tensor, const penstock_put_options* options,
                             uint64_t* version, penstock_error* error) {
  if (client == nullptr || name == nullptr || tensor == nullptr) {
    return Null("client, name or tensor", error);
  }
  const auto shape = ShapeFrom(tensor->rank, tensor->shape);
  if (!shape.ok()) return Fail(shape.status(), error);
  const auto dtype = DTypeFrom(tensor->dtype);
  if (!dtype.ok()) return Fail(dtype.status(), error);
  penstock::ConstTensorRef source{tensor->data, *dtype, *shape, {}};
  if (tensor->strides != nullptr) {
    source.strides.assign(tensor->strides, tensor->strides + tensor->rank);
  }
  const auto info = client->client->Put(name, source, OptionsFrom(options));
  if (!info.ok()) return Fail(info.status(), error);
  Store(version, info->version.number);
  return Succeed(error);
}

penstock_status penstock_create(penstock_client* client, const char* name, const char* dtype,
                                int32_t rank, const int64_t* shape,
                                const penstock_put_options* options, penstock_draft** draft,
                                penstock_error* error) {
  if (client == nullptr || name == nullptr || draft == nullptr) {
    return Null("client, name or draft", error);
  }
  const auto dims = ShapeFrom(rank, shape);
  if (!dims.ok()) return Fail(dims.status(), error);
  const auto type = DTypeFrom(dtype);
  if (!type.ok()) return Fail(type.status(), error);
  auto made = client->client->Create(name, *type, *dims, OptionsFrom(options));
  if (!made.ok()) return Fail(made.status(), error);
  *draft = new penstock_draft{*std::move(made)};
  return Succeed(error);
}

void* penstock_draft_data(const penstock_draft* draft) { return draft->draft.data(); }
uint64_t penstock_draft_nbytes(const penstock_draft* draft) { return draft->draft.nbytes(); }

penstock_status penstock_draft_publish(penstock_draft* draft, uint64_t* version,
                                       penstock_error* error) {
  if (draft == nullptr) return Null("draft", error);
  const std::unique_ptr<penstock_draft> owned(draft);
  const auto info = std::move(owned->draft).Publish();
  if (!info.ok()) return Fail(info.status(), error);
  Store(version, info->version.number);
  return Succeed(error);
}

void penstock_draft_abort(penstock_draft* draft) { delete draft; }

penstock_status penstock_delete(penstock_client* client, const char* name, int32_t* deleted,
                                penstock_error* error) {
  if (client == nullptr || name == nullptr) return Null("client or name", error);
  const auto result = client->client->Delete(name);
  if (!result.ok()) return Fail(result.status(), error);
  Store(deleted, *result ? 1 : 0);
  return Succeed(error);
}

penstock_status penstock_delete_prefix(penstock_client* client, const char* prefix,
                                       uint64_t* count, penstock_error* error) {
  if (client == nullptr || prefix == nullptr) return Null("client or prefix", error);
  const auto result = client->client->DeletePrefix(prefix);
  if (!result.ok()) return Fail(result.status(), error);
  Store(count, *result);
  return Succeed(error);
}

penstock_status penstock_exists(penstock_client* client, const char* name, int32_t* exists,
                                penstock_error* error) {
  if (client == nullptr || name == nullptr || exists == nullptr) {
    return Null("client, name or exists", error);
  }
  const auto result = client->client->Exists(name);
  if (!result.ok()) return Fail(result.status(), error);
  *exists = *result ? 1 : 0;
  return Succeed(error);
}

penstock_status penstock_list(penstock_client* client, const char* prefix,
                              int (*visit)(void* context, const char* name, uint64_t nbytes,
                                           uint64_t version),
                              void* context, penstock_error* error) {
  if (client == nullptr || prefix == nullptr || visit == nullptr) {
    return Null("client, prefix or visit", error);
  }
  std::string after;
  while (true) {
    const auto page = client->client->List(prefix, after);
    if (!page.ok()) return Fail(page.status(), error);
    for (const penstock::TensorInfo& info : page->items) {
      if (visit(context, info.name.c_str(), info.nbytes, info.version.number) != 0) {
        return Succeed(error);
      }
    }
    if (!page->more || page->items.empty()) return Succeed(error);
    after = page->items.back().name;
  }
}

penstock_status penstock_wait(penstock_client* client, const char* name, uint64_t version,
                              double timeout_seconds, penstock_error* error) {
  if (client == nullptr || name == nullptr) return Null("client or name", error);
  const auto info = client->client->Wait(name, version, absl::Seconds(timeout_seconds));
  return info.ok() ? Succeed(error) : Fail(info.status(), error);
}

const char* penstock_version(void) { return PENSTOCK_VERSION_TEXT; }
