// Client: what is asked of the node by message.
#include <algorithm>
#include <utility>

#include "client/connection.h"
#include "client/info.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock {

using client::Deadline;
using client::Session;
using rpc::Method;

namespace {

// One call and its decoded answer.
template <class Response, class Request>
absl::StatusOr<Response> Ask(client::Connection& connection, Method method, const Request& request,
                             const Deadline& deadline) {
  const absl::StatusOr<Session*> session = connection.Live(deadline);
  if (!session.ok()) return session.status();
  const absl::StatusOr<std::string> answer =
      (*session)->Call(method, request.SerializeAsString(), deadline);
  if (!answer.ok()) return answer.status();
  Response response;
  if (!response.ParseFromString(*answer)) {
    return absl::InternalError("the node's answer cannot be read");
  }
  return response;
}

// How long an answer may take beyond the time that a wait was given.
constexpr absl::Duration kPatience = absl::Milliseconds(900);

// The node keeps a call at most this long; a wait is as many calls as it takes.
constexpr absl::Duration kLongestCall = absl::Seconds(1);

uint64_t CallNanos(const Deadline& deadline) {
  return static_cast<uint64_t>(absl::ToInt64Nanoseconds(deadline.Slice(kLongestCall)));
}

absl::StatusOr<TensorInfo> StatBy(client::Connection& connection, std::string_view name, uint64_t version, const Deadline& deadline) {
  const absl::StatusOr<Session*> session = connection.Live(deadline);
  if (!session.ok()) return session.status();
  // In a cluster the home of the name knows which other nodes have it.
  const bool alone = (*session)->catalog().header().serve_until_ns.load() == UINT64_MAX;
  if (const auto pinned = alone ? (*session)->AcquireHere(name, version) : std::nullopt) {
    TensorInfo info = client::InfoOf(pinned->record, (*session)->catalog().node_uuid());
    (*session)->Release(*pinned);
    return info;
  }
  v1::StatRequest request;
  v1::TensorRef* item = request.add_items();
  item->set_name(std::string(name));
  item->set_version(version);
  const auto response = Ask<v1::StatResponse>(connection, Method::kStat, request, deadline);
  if (!response.ok()) return response.status();
  if (response->results_size() != 1) return absl::InternalError("the node's answer cannot be read");
  const v1::TensorResult& result = response->results(0);
  const auto code = static_cast<absl::StatusCode>(result.status().code());
  if (code == absl::StatusCode::kOk) return client::InfoOf(result.info());
  if (code != absl::StatusCode::kNotFound) return absl::Status(code, result.status().message());
  return client::NoSuchTensor(name, version);
}

class NodeWatcher : public Watcher {
 public:
  NodeWatcher(std::shared_ptr<client::Connection> connection, v1::WatchRequest cursor)
      : connection_(std::move(connection)), cursor_(std::move(cursor)) {}

  absl::StatusOr<std::vector<TensorEvent>> Next(absl::Duration timeout) override {
    const Deadline deadline = Deadline::After(timeout);
    while (true) {
      absl::StatusOr<std::vector<TensorEvent>> events = Poll(CallNanos(deadline));
      if (!events.ok() || !events->empty() || deadline.Passed()) return events;
    }
  }

  // One call; moves the cursor.
  absl::StatusOr<std::vector<TensorEvent>> Poll(uint64_t timeout_ns) {
    cursor_.set_timeout_ns(timeout_ns);
    const Deadline deadline =
        Deadline::After(connection_->timeout() + absl::Nanoseconds(timeout_ns));
    absl::StatusOr<v1::WatchResponse> response =
        Ask<v1::WatchResponse>(*connection_, Method::kWatch, cursor_, deadline);
    if (!response.ok()) return response.status();
    cursor_.set_after_sequence(response->next_sequence());
    cursor_.set_node_generation(response->node_generation());
    cursor_.set_from_start(false);
    std::vector<TensorEvent> events;
    events.reserve(static_cast<size_t>(response->events_size()));
    for (const v1::Event& event : response->events()) events.push_back(client::EventOf(event));
    return events;
  }

 private:
  const std::shared_ptr<client::Connection> connection_;
  v1::WatchRequest cursor_;
};

}  // namespace

absl::StatusOr<std::string> Client::Call(uint32_t method, std::string_view request) {
  const Deadline deadline = connection_->DefaultDeadline();
  const absl::StatusOr<Session*> session = connection_->Live(deadline);
  if (!session.ok()) return session.status();
  return (*session)->Call(static_cast<Method>(method), request, deadline);
}

absl::StatusOr<bool> Client::Delete(std::string_view name, std::optional<uint64_t> version) {
  if (absl::Status s = ValidateUserName(name); !s.ok()) return s;
  if (version == 0) {
    return absl::InvalidArgumentError("delete: version 0 does not exist; leave it out for any");
  }
  const Deadline deadline = connection_->DefaultDeadline();
  const absl::StatusOr<Session*> session = connection_->Live(deadline);
  if (!session.ok()) return session.status();
  const auto deleted =
      (*session)->Lookup(layout::RingOp::kDelete, name, version.value_or(0), deadline);
  if (deleted.ok()) return true;
  if (absl::IsNotFound(deleted.status())) return false;
  return deleted.status();
}

absl::StatusOr<uint64_t> Client::DeletePrefix(std::string_view prefix) {
  if (prefix.substr(0, kReservedPrefix.size()) == kReservedPrefix) {
    return absl::InvalidArgumentError(StrCat("prefix: ", kReservedPrefix, " is internal; snapshots are removed by `penstock snapshot rm`"));
  }
  if (absl::Status s = ValidatePrefix(prefix); !s.ok()) return s;
  v1::DeletePrefixRequest request;
  request.set_prefix(std::string(prefix));
  const auto response = Ask<v1::DeletePrefixResponse>(*connection_, Method::kDeletePrefix, request,
                                                      connection_->DefaultDeadline());
  if (!response.ok()) return response.status();
  return response->count();
}

absl::StatusOr<MoveResult> Client::Move(std::string_view name, std::string_view to, bool copy, absl::Duration timeout) {
  if (absl::Status s = ValidateName(name); !s.ok()) return s;
  if (to.empty()) return absl::InvalidArgumentError("to: is empty; a node's uuid, or its beginning, is needed");
  v1::MoveTensorRequest request;
  request.set_name(std::string(name));
  request.set_to(std::string(to));
  request.set_copy(copy);
  const Deadline deadline = Deadline::After(timeout), patience = Deadline::After(timeout + kPatience);
  while (true) {
    // The node keeps each call somewhat less than a second.
    const auto response = Ask<v1::MoveTensorResponse>(*connection_, Method::kMoveTensor, request,
                                                      Deadline::After(patience.Slice(connection_->timeout() + kLongestCall)));
    if (response.ok()) return MoveResult{.from = response->from(), .bytes = response->bytes()};
    if (!absl::IsDeadlineExceeded(response.status()) || deadline.Passed()) return response.status();
  }
}

absl::StatusOr<ListPage> Client::List(std::string_view prefix, std::string_view after,
                                      uint32_t limit) {
  if (absl::Status s = ValidatePrefix(prefix); !s.ok()) return s;
  if (!IsValidUtf8(after)) return absl::InvalidArgumentError("list: after is not UTF-8");
  if (limit == 0) return absl::InvalidArgumentError("list: limit must be above 0");
  v1::ListRequest request;
  request.set_prefix(std::string(prefix));
  request.set_after(std::string(after));
  request.set_limit(limit);
  const auto response = Ask<v1::ListResponse>(*connection_, Method::kList, request,
                                              connection_->DefaultDeadline());
  if (!response.ok()) return response.status();
  ListPage page;
  page.more = response->more();
  page.items.reserve(static_cast<size_t>(response->items_size()));
  for (const v1::TensorInfo& item : response->items()) page.items.push_back(client::InfoOf(item));
  return page;
}

absl::StatusOr<uint32_t> Client::LongestPrefix(absl::Span<const std::string> names) {
  const Deadline deadline = connection_->DefaultDeadline();
  v1::LongestPrefixRequest request;
  for (const std::string& name : names) {
    if (absl::Status s = ValidateName(name); !s.ok()) return s;
    request.add_names(name);
  }
  if (names.empty()) return 0;
  const auto response =
      Ask<v1::LongestPrefixResponse>(*connection_, Method::kLongestPrefix, request, deadline);
  if (!response.ok()) return response.status();
  return response->count();
}

absl::StatusOr<TensorInfo> Client::Stat(std::string_view name, std::optional<uint64_t> version) {
  if (absl::Status s = ValidateName(name); !s.ok()) return s;
  return StatBy(*connection_, name, version.value_or(0), connection_->DefaultDeadline());
}

absl::StatusOr<TensorInfo> Client::Wait(std::string_view name, uint64_t version,
                                        absl::Duration timeout) {
  if (absl::Status s = ValidateName(name); !s.ok()) return s;
  const Deadline deadline = Deadline::After(timeout), patience = Deadline::After(timeout + kPatience);
  v1::WaitRequest request;
  request.set_name(std::string(name));
  request.set_version(version);
  while (true) {
    absl::StatusOr<TensorInfo> present = StatBy(*connection_, name, 0, Deadline::After(patience.Slice(connection_->timeout())));
    if (present.ok() ? present->version.number >= version : !absl::IsNotFound(present.status())) {
      return present;
    }
    const uint64_t nanos = CallNanos(deadline);
    request.set_timeout_ns(nanos);
    const auto response = Ask<v1::WaitResponse>(
        *connection_, Method::kWait, request,
        Deadline::After(patience.Slice(connection_->timeout() + absl::Nanoseconds(nanos))));
    if (response.ok()) return client::InfoOf(response->info());
    if (absl::IsResourceExhausted(response.status())) {
      // Has come, with much metadata: little room is kept for the answer, since many may wait.
      present = Stat(name);
      if (present.ok() && present->version.number >= version) return present;
    }
    if (!absl::IsDeadlineExceeded(response.status())) return response.status();
    if (deadline.Passed()) {
      return absl::DeadlineExceededError(StrCat("wait \"", name, "\": not there before the timeout"));
    }
  }
}

absl::StatusOr<std::unique_ptr<Watcher>> Client::Watch(const WatchOptions& options) {
  if (absl::Status s = ValidatePrefix(options.prefix); !s.ok()) return s;
  v1::WatchRequest cursor;
  cursor.set_prefix(options.prefix);
  cursor.set_tensors_only(options.tensors_only);
  cursor.set_from_start(options.from_start);
  cursor.set_after_sequence(options.after_sequence.value_or(0));
  auto watcher = std::make_unique<NodeWatcher>(connection_, cursor);
  if (!options.from_start && !options.after_sequence) {
    // "From now on" begins here, not with the first Next.
    const absl::StatusOr<std::vector<TensorEvent>> now = watcher->Poll(0);
    if (!now.ok()) return now.status();
  }
  return watcher;
}

}  // namespace penstock
