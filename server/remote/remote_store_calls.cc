// Calls of clients about names of the cluster: Stat, List, LongestPrefix, DeletePrefix, and those that the cluster carries out.
#include <utility>

#include "proto/names.h"
#include "proto/strcat.h"
#include "server/remote/remote_store.h"
#include "server/rpc/status_message.h"

namespace penstock::server {

namespace {

template <class Request>
absl::Status Parse(const std::string& bytes, Request* request) {
  if (request->ParseFromString(bytes)) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("message: not a ", Request::descriptor()->name()));
}

}  // namespace

bool RemoteStore::Concerns(rpc::Method method) {
  return method == rpc::Method::kStat || method == rpc::Method::kLongestPrefix || method == rpc::Method::kDeletePrefix ||
         method == rpc::Method::kList || method == rpc::Method::kOpenRead || method == rpc::Method::kCloseRead ||
         method == rpc::Method::kMeasurePeer || method == rpc::Method::kForgetNode || method == rpc::Method::kDrainNode ||
         method == rpc::Method::kMoveTensor || method == rpc::Method::kSettleQuarantined;
}

// Of a few names: no thread waits for their homes. Else, or of what cannot be read: nothing.
std::optional<uint64_t> RemoteStore::StartStat(const std::string& message) {
  v1::StatRequest request;
  if (!by_directory() || !Parse(message, &request).ok() || request.items_size() > ClusterNames::kStatNames) return std::nullopt;
  const uint64_t key = jobs_.NewKey();
  names_->StartStat(request, [this, key](const v1::StatResponse& response) {
    jobs_.Finish(key, {.status = {}, .response = response.SerializeAsString()});
  });
  return key;
}

uint64_t RemoteStore::StartCall(rpc::Method method, uint64_t session, std::string message, uint64_t page_bytes) {
  if (method == rpc::Method::kStat) {
    if (const std::optional<uint64_t> key = StartStat(message)) return *key;
  }
  return jobs_.Start([this, method, session, message = std::move(message), page_bytes] {
    Result result;
    auto serve = [&](auto request, auto response, auto handler) {
      result.status = Parse(message, &request);
      if (result.status.ok()) result.status = handler(request, &response);
      if (result.status.ok()) response.SerializeToString(&result.response);
    };
    switch (method) {
      case rpc::Method::kStat:
        serve(v1::StatRequest(), v1::StatResponse(), [this](const auto& q, auto* r) { return Stat(q, r); });
        break;
      case rpc::Method::kLongestPrefix:
        serve(v1::LongestPrefixRequest(), v1::LongestPrefixResponse(), [this](const auto& q, auto* r) { return LongestPrefix(q, r); });
        break;
      case rpc::Method::kDeletePrefix:
        serve(v1::DeletePrefixRequest(), v1::DeletePrefixResponse(), [this](const auto& q, auto* r) { return DeletePrefix(q, r); });
        break;
      case rpc::Method::kList:
        serve(v1::ListRequest(), v1::ListResponse(), [this, page_bytes](const auto& q, auto* r) { return List(q, page_bytes, r); });
        break;
      case rpc::Method::kOpenRead:
        serve(v1::OpenReadRequest(), v1::OpenReadResponse(), [this, session](const auto& q, auto* r) { return reads_.Open(session, q, r); });
        break;
      case rpc::Method::kCloseRead:
        serve(v1::CloseReadRequest(), v1::CloseReadResponse(), [this, session](const auto& q, auto* r) { return reads_.Close(session, q, r); });
        break;
      case rpc::Method::kMeasurePeer:
        serve(v1::MeasurePeerRequest(), v1::MeasurePeerResponse(), [this](const auto& q, auto* r) { return measure_.Measure(q, r); });
        break;
      case rpc::Method::kForgetNode:
        serve(v1::ForgetNodeRequest(), v1::ForgetNodeResponse(), [this](const auto& q, auto* r) { return ForgetNode(q, r); });
        break;
      case rpc::Method::kDrainNode:
        serve(v1::DrainNodeRequest(), v1::DrainNodeResponse(), [this](const auto& q, auto* r) { return DrainNode(q, r); });
        break;
      case rpc::Method::kMoveTensor:
        serve(v1::MoveTensorRequest(), v1::MoveTensorResponse(), [this](const auto& q, auto* r) { return MoveTensor(q, r); });
        break;
      case rpc::Method::kSettleQuarantined:
        serve(v1::SettleQuarantinedRequest(), v1::SettleQuarantinedResponse(), [this](const auto& q, auto* r) { return SettleQuarantined(q, r); });
        break;
      default: result.status = absl::UnimplementedError("no such remote call");
    }
    return result;
  });
}

absl::StatusOr<Published> RemoteStore::Delete(const std::string& name, uint64_t version) {
  const absl::StatusOr<Published> here = recall_->Change(name, [&](LeaseRule leases) { return store_->Delete(name, version, leases); });
  if (!absl::IsNotFound(here.status())) return here;
  v1::DeleteRequest request;
  request.add_items()->set_name(name);
  request.mutable_items(0)->set_version(version);
  absl::Status unanswered;
  for (const PeerRef& peer : homes_.InOrder(name)) {
    v1::DeleteResponse response;
    const absl::Status asked = peer->Ask(&v1::Store::Stub::Delete, request, &response);
    if (!asked.ok()) {
      unanswered = asked;
      continue;
    }
    if (response.results_size() != 1 || response.results(0).code() == static_cast<int>(absl::StatusCode::kNotFound)) continue;
    if (response.results(0).code() != 0) return absl::Status(static_cast<absl::StatusCode>(response.results(0).code()), response.results(0).message());
    store_->DropCopy(name);
    return Published{};
  }
  return unanswered.ok() ? here : unanswered;
}

absl::Status RemoteStore::Stat(const v1::StatRequest& request, v1::StatResponse* response) {
  if (by_directory()) return names_->Stat(request, response);
  std::vector<int> missing;
  std::vector<std::string_view> names;
  for (int i = 0; i < request.items_size(); ++i) {
    v1::TensorResult* result = response->add_results();
    absl::Status status = ValidateName(request.items(i).name());
    if (status.ok()) {
      absl::StatusOr<v1::TensorInfo> info = store_->Stat(request.items(i).name(), request.items(i).version());
      status = info.status();
      if (info.ok()) *result->mutable_info() = *std::move(info);
    }
    Encode(status, result->mutable_status());
    if (!absl::IsNotFound(status)) continue;
    missing.push_back(i);
    names.push_back(request.items(i).name());
  }
  homes_.Find(names, [&](const PeerRef& peer, absl::Span<const size_t> which) {
    v1::StatRequest ask;
    std::vector<v1::TensorResult*> results;
    for (const size_t k : which) {
      *ask.add_items() = request.items(missing[k]);
      results.push_back(response->mutable_results(missing[k]));
    }
    return StatAt(*peer, ask, results);
  });
  return absl::OkStatus();
}

// Whether each was found there.
std::vector<bool> RemoteStore::StatAt(PeerNode& peer, const v1::StatRequest& ask, const std::vector<v1::TensorResult*>& results) {
  v1::StatResponse answer;
  const absl::Status asked = peer.Ask(&v1::Store::Stub::Stat, ask, &answer);
  std::vector<bool> found(results.size(), false);
  for (size_t k = 0; k < results.size(); ++k) {
    const bool answered = asked.ok() && static_cast<int>(k) < answer.results_size();
    if (answered && answer.results(static_cast<int>(k)).status().code() == 0) {
      *results[k] = answer.results(static_cast<int>(k));
      results[k]->mutable_info()->clear_location();
      found[k] = true;
    } else if (!answered) {  // not found would be more than is known
      Encode(absl::UnavailableError(asked.message()), results[k]->mutable_status());
    } else if (answer.results(static_cast<int>(k)).status().code() != static_cast<int>(absl::StatusCode::kNotFound)) {
      *results[k]->mutable_status() = answer.results(static_cast<int>(k)).status();  // it has no place in the cluster now, say
    }
  }
  return found;
}

absl::Status RemoteStore::LongestPrefix(const v1::LongestPrefixRequest& request, v1::LongestPrefixResponse* response) {
  if (by_directory()) return names_->LongestPrefix(request, response);
  v1::StatRequest ask;
  for (const std::string& name : request.names()) {
    if (absl::Status s = ValidateName(name); !s.ok()) return s;
    ask.add_items()->set_name(name);
  }
  v1::StatResponse answer;
  if (absl::Status s = Stat(ask, &answer); !s.ok()) return s;
  uint32_t count = 0;
  for (const v1::TensorResult& result : answer.results()) {
    const auto code = static_cast<absl::StatusCode>(result.status().code());
    if (code == absl::StatusCode::kNotFound) break;
    if (code != absl::StatusCode::kOk) return absl::Status(code, result.status().message());  // a shorter one would be a guess
    ++count;
  }
  response->set_count(count);
  return absl::OkStatus();
}

absl::Status RemoteStore::DeletePrefix(const v1::DeletePrefixRequest& request, v1::DeletePrefixResponse* response) {
  if (by_directory()) return names_->DeletePrefix(request, response);
  if (absl::Status s = store_->MayServeNames(); !s.ok()) return s;
  const absl::StatusOr<uint64_t> here = recall_->DeletePrefix(request.prefix());
  if (!here.ok()) return here.status();
  response->set_count(*here);
  for (const PeerRef& peer : peers_.Now()) {
    v1::DeletePrefixResponse answer;
    if (absl::Status s = peer->Ask(&v1::Store::Stub::DeletePrefix, request, &answer); !s.ok()) return s;
    response->set_count(response->count() + answer.count());
  }
  return absl::OkStatus();
}

// A page of the names of all nodes, in order: the first names of each, merged, as far as no node has more before them.
absl::Status RemoteStore::List(const v1::ListRequest& request, uint64_t page_bytes, v1::ListResponse* response) {
  if (by_directory()) return names_->List(request, page_bytes, response);
  if (absl::Status s = store_->MayServeNames(); !s.ok()) return s;
  std::vector<v1::ListResponse> pages(1);
  store_->List(request, page_bytes, &pages[0]);
  for (const PeerRef& peer : peers_.Now()) {
    if (absl::Status s = peer->Ask(&v1::Store::Stub::List, request, &pages.emplace_back()); !s.ok()) return s;
  }
  MergePages(&pages, request.limit(), page_bytes, response);  // of two nodes that have a name, this one's
  return absl::OkStatus();
}

}  // namespace penstock::server
