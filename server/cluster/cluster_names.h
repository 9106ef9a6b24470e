// ClusterNames: questions about names, and deletes, that the cluster's directory answers for clients of this node.
//
// Threading:  any thread; calls wait for the homes, at most kPatience
// Ownership:  what it is given must outlive it
// Errors:     NOT_FOUND only when the name's home says so; UNAVAILABLE while a home has not answered ("not yet"), which is worth
//             trying again; DATA_LOSS every node that had the tensor is gone
// Limits:     a page of List costs one call to each other member
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/cluster/cluster_directory.h"
#include "server/cluster/cluster_waits.h"
#include "server/cluster/set_version.h"
#include "server/remote/peer_table.h"
#include "server/store/store.h"
#include "store.pb.h"

namespace penstock::server {

class ClusterNames {
 public:
  static constexpr absl::Duration kPatience = absl::Seconds(10);

  using NameOf = std::function<std::string(directory::NodeId node)>;  // its uuid as text

  ClusterNames(Store* store, ClusterDirectory* directory, const PeerTable* peers, NameOf name_of)
      : store_(store), directory_(directory), peers_(peers), name_of_(std::move(name_of)), waits_(store, directory) {}
  void Stop() { waits_.Stop(); }

  absl::Status Stat(const v1::StatRequest& request, v1::StatResponse* response);
  // The same, and waits for nothing; `done` comes on any thread, perhaps before it returns. At most kStatNames items.
  static constexpr int kStatNames = 64;
  void StartStat(const v1::StatRequest& request, std::function<void(const v1::StatResponse& response)> done);
  absl::Status LongestPrefix(const v1::LongestPrefixRequest& request, v1::LongestPrefixResponse* response);
  absl::Status DeletePrefix(const v1::DeletePrefixRequest& request, v1::DeletePrefixResponse* response);
  // Of all homes, in order.
  absl::Status List(const v1::ListRequest& request, uint64_t page_bytes, v1::ListResponse* response);
  // Of the partitions whose home this node is.
  absl::Status ListHomes(const v1::ListRequest& request, v1::ListResponse* response);

  // The tensor, with this version or a later one, if it has come; else its home is asked for a while, and Store::NoteNews tells.
  std::optional<absl::StatusOr<v1::TensorInfo>> Await(const std::string& name, uint64_t version);

  // `done` comes on any thread, perhaps before Delete returns.
  using Deleted = std::function<void(const absl::StatusOr<Published>& deleted)>;
  void Delete(const std::string& name, uint64_t version, Deleted done);
  // These wait; one status each.
  std::vector<absl::Status> Delete(const v1::DeleteRequest& request);
  std::vector<absl::Status> DeleteAll(const std::vector<std::string>& names);

 private:
  // A Stat whose homes are to be asked.
  struct Asked {
    const v1::StatRequest request;
    v1::StatResponse response{};
    std::vector<int> missing{};  // items
    std::vector<std::string> names{};
  };
  void CheckNames(Asked* asked) const;
  // No results: they have not answered.
  void Answer(absl::Span<const directory::LookupResult> found, Asked* asked) const;
  absl::Status TryList(const v1::ListRequest& request, uint64_t page_bytes, v1::ListResponse* response);
  void TellWhy(const directory::LookupResult& found, v1::TensorInfo* info) const;
  absl::StatusOr<v1::TensorInfo> InfoOf(const std::string& name, directory::Version version, const directory::PutInfo& info,
                                        absl::Span<const directory::NodeId> holders) const;

  Store* const store_;
  ClusterDirectory* const directory_;
  const PeerTable* const peers_;
  const NameOf name_of_;
  ClusterWaits waits_;
};

// Of what a home answered about `name`: an error unless it was found, with version `version` if that is not 0.
absl::Status StatusOf(const std::string& name, uint64_t version, const directory::LookupResult& result, ClusterDirectory& directory);
absl::Status NotYet(std::string_view what);
// Lists of the same request by several nodes as one, in order; of two that tell of a name, the first one's. The items are moved out of
// `pages`. At most `limit` (0: 1000), and no more bytes than `page_bytes`, but for the last item.
void MergePages(std::vector<v1::ListResponse>* pages, uint32_t limit, uint64_t page_bytes, v1::ListResponse* response);

}  // namespace penstock::server
