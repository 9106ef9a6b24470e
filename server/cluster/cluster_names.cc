#include "server/cluster/cluster_names.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/time/clock.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "server/store/record_info.h"
#include "server/rpc/status_message.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr uint64_t kListPage = 1000;  // where a request says nothing
constexpr size_t kDeletePage = 256;
constexpr absl::Duration kBetweenLists = absl::Milliseconds(20);

}  // namespace

absl::Status NotYet(std::string_view what) {
  return absl::UnavailableError(StrCat(what, ": its home has not answered yet (the cluster is changing, or this node is cut off); try again"));
}

absl::Status StatusOf(const std::string& name, uint64_t version, const directory::LookupResult& result, ClusterDirectory& directory) {
  switch (result.status) {
    case directory::LookupStatus::kElsewhere: return NotYet(StrCat("'", name, "'"));
    case directory::LookupStatus::kAbsent: return absl::NotFoundError(StrCat("'", name, "': no such tensor in the cluster"));
    case directory::LookupStatus::kLost: return directory.Lost(StrCat("'", name, "' version ", result.version.number));
    case directory::LookupStatus::kFound: break;
  }
  if (version == 0 || version == result.version.number) return absl::OkStatus();
  return absl::NotFoundError(StrCat("'", name, "': version ", version, " is not here; the present version is ", result.version.number));
}

void MergePages(std::vector<v1::ListResponse>* pages, uint32_t limit, uint64_t page_bytes, v1::ListResponse* response) {
  std::map<std::string, v1::TensorInfo*> items;
  std::optional<std::string> end;  // beyond it, somebody may have names that were not told
  for (v1::ListResponse& page : *pages) {
    for (v1::TensorInfo& item : *page.mutable_items()) items.emplace(item.name(), &item);
    if (page.more() && page.items_size() > 0 && (!end || page.items().rbegin()->name() < *end)) end = page.items().rbegin()->name();
  }
  const uint64_t most = limit == 0 ? kListPage : limit;
  uint64_t bytes = 0;
  for (auto& [name, item] : items) {
    if ((end && name > *end) || static_cast<uint64_t>(response->items_size()) >= most || bytes >= page_bytes) return response->set_more(true);
    bytes += item->ByteSizeLong() + 8;
    *response->add_items() = std::move(*item);
  }
  response->set_more(end.has_value());
}

absl::StatusOr<v1::TensorInfo> ClusterNames::InfoOf(const std::string& name, directory::Version version, const directory::PutInfo& put,
                                                    absl::Span<const directory::NodeId> holders) const {
  absl::StatusOr<v1::TensorInfo> info = TensorInfoOf(name, version, put);
  if (!info.ok()) return info;
  for (const directory::NodeId node : holders) info->add_nodes(name_of_(node));
  return info;
}

void ClusterNames::TellWhy(const directory::LookupResult& found, v1::TensorInfo* info) const {
  for (size_t i = 0; i < found.holders.size(); ++i) {
    v1::TensorInfo::Placement* placement = info->add_placements();
    placement->set_node(name_of_(found.holders[i]));
    placement->set_why(directory::ReasonText(i < found.reasons.size() ? found.reasons[i] : 0));
  }
}

void ClusterNames::CheckNames(Asked* asked) const {
  const absl::Status serves = store_->MayServeNames();
  for (int i = 0; i < asked->request.items_size(); ++i) {
    absl::Status valid = ValidateName(asked->request.items(i).name());
    if (valid.ok()) valid = serves;
    Encode(valid, asked->response.add_results()->mutable_status());
    if (!valid.ok()) continue;
    asked->missing.push_back(i);
    asked->names.push_back(asked->request.items(i).name());
  }
}

void ClusterNames::Answer(absl::Span<const directory::LookupResult> found, Asked* asked) const {
  for (size_t k = 0; k < asked->missing.size(); ++k) {
    const std::string& name = asked->names[k];
    v1::TensorResult* result = asked->response.mutable_results(asked->missing[k]);
    absl::Status status = found.empty() ? NotYet(StrCat("'", name, "'")) : StatusOf(name, asked->request.items(asked->missing[k]).version(), found[k], *directory_);
    if (status.ok()) {
      absl::StatusOr<v1::TensorInfo> info = InfoOf(name, found[k].version, found[k].info, found[k].holders);
      status = info.status();
      if (info.ok()) {
        *result->mutable_info() = *std::move(info);
        TellWhy(found[k], result->mutable_info());
      }
    }
    Encode(status, result->mutable_status());
  }
}

absl::Status ClusterNames::Stat(const v1::StatRequest& request, v1::StatResponse* response) {
  Asked asked{.request = request};
  CheckNames(&asked);
  if (!asked.names.empty()) {
    const auto looked = directory_->LookupNow(asked.names, /*lease=*/false, MonotonicNow() + kPatience);
    Answer(looked ? looked->results : std::vector<directory::LookupResult>(), &asked);
  }
  *response = std::move(asked.response);
  return absl::OkStatus();
}

void ClusterNames::StartStat(const v1::StatRequest& request, std::function<void(const v1::StatResponse& response)> done) {
  const auto asked = std::make_shared<Asked>(Asked{.request = request});
  CheckNames(asked.get());
  if (asked->names.empty()) return done(asked->response);
  directory_->Lookup(asked->names, /*lease=*/false, MonotonicNow() + kPatience,
                     [this, asked, done = std::move(done)](const std::vector<directory::LookupResult>& found, absl::Time) {
                       Answer(found, asked.get());
                       done(asked->response);
                     });
}

std::optional<absl::StatusOr<v1::TensorInfo>> ClusterNames::Await(const std::string& name, uint64_t version) {
  absl::StatusOr<v1::TensorInfo> here = store_->Stat(name, 0);
  if (here.ok() && here->version().number() >= version) return here;
  const std::optional<directory::LookupResult> found = waits_.Look(name);
  if (!found || found->version.number < version) return std::nullopt;
  return InfoOf(name, found->version, found->info, found->holders);
}

// What this node has itself needs no call, up to the first that it has not.
absl::Status ClusterNames::LongestPrefix(const v1::LongestPrefixRequest& request, v1::LongestPrefixResponse* response) {
  for (const std::string& name : request.names()) {
    if (absl::Status s = ValidateName(name); !s.ok()) return s;
  }
  if (absl::Status s = store_->MayServeNames(); !s.ok()) return s;
  int count = 0;
  const auto is_here = [this](const std::string& name) {
    const absl::StatusOr<Published> here = store_->Lookup(name, 0);
    return here.ok() && (!here->fetched || here->leased);
  };
  while (count < request.names_size() && is_here(request.names(count))) ++count;
  const std::vector<std::string> rest(request.names().begin() + count, request.names().end());
  if (!rest.empty()) {
    const auto looked = directory_->LookupNow(rest, /*lease=*/false, MonotonicNow() + kPatience);
    if (!looked) return NotYet(StrCat("'", rest[0], "'"));
    for (size_t i = 0; i < rest.size(); ++i) {
      const absl::Status status = StatusOf(rest[i], 0, looked->results[i], *directory_);
      if (absl::IsUnavailable(status)) return status;  // a shorter one would be a guess
      if (!status.ok()) break;
      ++count;
    }
  }
  response->set_count(static_cast<uint32_t>(count));
  return absl::OkStatus();
}

void ClusterNames::Delete(const std::string& name, uint64_t version, Deleted done) {
  if (absl::Status s = store_->MayServeNames(); !s.ok()) return done(s);
  directory_->Delete(name, {.if_absent = false, .if_version = version, .version = 0},
                     [name, version, done = std::move(done)](directory::Outcome outcome, directory::Version at) {
    switch (outcome) {
      case directory::Outcome::kCommitted: return done(Published{.version_term = static_cast<uint32_t>(at.term), .version_number = at.number});
      case directory::Outcome::kNotFound: return done(absl::NotFoundError(StrCat("'", name, "': no such tensor in the cluster")));
      case directory::Outcome::kConflict:
        return done(absl::NotFoundError(StrCat("'", name, "': version ", version, " is not here; the present version is ", at.number)));
      case directory::Outcome::kAborted: return done(absl::UnavailableError(StrCat("delete '", name, "': nothing was done; try again")));
      case directory::Outcome::kAmbiguous:
      case directory::Outcome::kElsewhere:
        return done(absl::UnavailableError(StrCat("delete '", name, "': it may or may not have been done; look, and try again")));
    }
  });
}

std::vector<absl::Status> ClusterNames::DeleteAll(const std::vector<std::string>& names) {
  v1::DeleteRequest request;
  for (const std::string& name : names) request.add_items()->set_name(name);
  return Delete(request);
}

std::vector<absl::Status> ClusterNames::Delete(const v1::DeleteRequest& request) {
  struct Waiting {
    std::mutex mutex;
    std::condition_variable changed;
    size_t open = 0;
    std::vector<absl::Status> statuses;
  };
  const auto waiting = std::make_shared<Waiting>();
  waiting->open = static_cast<size_t>(request.items_size());
  for (const v1::TensorRef& item : request.items()) waiting->statuses.push_back(NotYet(StrCat("delete '", item.name(), "'")));
  for (int i = 0; i < request.items_size(); ++i) {
    const auto done = [waiting, i](const absl::StatusOr<Published>& deleted) {
      std::lock_guard lock(waiting->mutex);
      waiting->statuses[static_cast<size_t>(i)] = deleted.status();
      if (--waiting->open == 0) waiting->changed.notify_all();
    };
    const absl::Status valid = ValidateName(request.items(i).name());
    valid.ok() ? Delete(request.items(i).name(), request.items(i).version(), done) : done(valid);
  }
  std::unique_lock lock(waiting->mutex);
  waiting->changed.wait_for(lock, absl::ToChronoNanoseconds(kPatience), [&] { return waiting->open == 0; });
  return waiting->statuses;
}

// Names that come or go meanwhile may be met or not.
absl::Status ClusterNames::DeletePrefix(const v1::DeletePrefixRequest& request, v1::DeletePrefixResponse* response) {
  if (absl::Status s = ValidatePrefix(request.prefix()); !s.ok()) return s;
  v1::ListRequest ask;
  ask.set_prefix(request.prefix());
  ask.set_names_only(true);
  ask.set_limit(kDeletePage);
  while (true) {
    v1::ListResponse page;
    if (absl::Status s = List(ask, UINT64_MAX, &page); !s.ok()) return s;
    std::vector<std::string> names;
    for (const v1::TensorInfo& item : page.items()) names.push_back(item.name());
    for (const absl::Status& status : DeleteAll(names)) {
      if (status.ok()) response->set_count(response->count() + 1);
      if (!status.ok() && !absl::IsNotFound(status)) return status;
    }
    if (!page.more() || names.empty()) return absl::OkStatus();
    ask.set_after(names.back());
  }
}

absl::Status ClusterNames::ListHomes(const v1::ListRequest& request, v1::ListResponse* response) {
  if (absl::Status s = store_->MayServeNames(); !s.ok()) return s;
  const uint64_t limit = request.limit() == 0 ? 1000 : std::min<uint64_t>(request.limit(), 10000);
  response->set_view(directory_->term());
  const std::string_view reserved = kReservedPrefix;
  std::string after = request.after();
  while (static_cast<uint64_t>(response->items_size()) < limit) {
    const std::optional<std::vector<directory::ListedName>> names = directory_->List(request.prefix(), after, limit);
    if (!names) return NotYet(StrCat("list '", request.prefix(), "'"));
    for (const directory::ListedName& listed : *names) {
      after = listed.name;
      if (listed.name.starts_with(reserved) && !request.prefix().starts_with(reserved)) continue;
      if (static_cast<uint64_t>(response->items_size()) == limit) {
        response->set_more(true);
        return absl::OkStatus();
      }
      v1::TensorInfo* item = response->add_items();
      item->set_name(listed.name);
      if (request.names_only()) continue;
      absl::StatusOr<v1::TensorInfo> info = InfoOf(listed.name, listed.version, listed.info, listed.holders);
      if (info.ok()) *item = *std::move(info);
    }
    if (names->size() < limit) return absl::OkStatus();
  }
  response->set_more(true);
  return absl::OkStatus();
}

// Homes that are not ready yet are asked again.
absl::Status ClusterNames::List(const v1::ListRequest& request, uint64_t page_bytes, v1::ListResponse* response) {
  if (absl::Status s = ValidatePrefix(request.prefix()); !s.ok()) return s;
  const absl::Time end = MonotonicNow() + kPatience;
  while (true) {
    if (absl::Status s = store_->MayServeNames(); !s.ok()) return s;
    response->Clear();
    const absl::Status listed = TryList(request, page_bytes, response);
    if (!absl::IsUnavailable(listed) || MonotonicNow() >= end) return listed;
    absl::SleepFor(kBetweenLists);
  }
}

// The first names of each home, merged, as far as no home has more before them.
absl::Status ClusterNames::TryList(const v1::ListRequest& request, uint64_t page_bytes, v1::ListResponse* response) {
  v1::ListRequest of_homes = request;
  of_homes.set_of_homes(true);
  std::vector<v1::ListResponse> pages(1);
  if (absl::Status s = ListHomes(request, &pages[0]); !s.ok()) return s;
  for (const PeerRef& peer : peers_->Now()) {
    if (peer->absent()) continue;
    if (absl::Status s = peer->Ask(&v1::Store::Stub::List, of_homes, &pages.emplace_back()); !s.ok()) return s;
  }
  for (const v1::ListResponse& page : pages) {
    if (page.view() != directory_->term()) return NotYet(StrCat("list '", request.prefix(), "'"));  // a partition could be nobody's
  }
  MergePages(&pages, request.limit(), page_bytes, response);
  return absl::OkStatus();
}

}  // namespace penstock::server
