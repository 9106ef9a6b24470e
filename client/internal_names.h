// InternalNames: what the client keeps in the reserved part of the names (".penstock/"), where users cannot put or delete.
//
// Threading:  any thread, but one at a time for what is bound
// Ownership:  keeps the connection alive; views stay valid without it
// Errors:     as Client's
// Limits:     as Client's; Commit makes a draft in an extent of the session
#ifndef PENSTOCK_CLIENT_INTERNAL_NAMES_H_
#define PENSTOCK_CLIENT_INTERNAL_NAMES_H_

#include <penstock/client.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "proto/layout/ring_layout.h"

namespace penstock::client {

// Client::PutMany, of tensors with names for `purpose`.
std::vector<absl::StatusOr<TensorInfo>> PutMany(Connection& connection, layout::Purpose purpose, absl::Span<const PutRequest> requests,
                                                const PutOptions& options);

std::string NewId();  // 32 random hexadecimal digits, for a name of one's own

class InternalNames {
 public:
  explicit InternalNames(const Client& client) : connection_(client.connection_), client_(connection_) {}

  // Bytes, as a tensor of u8. if_version: 0 = only if there is none; Aborted otherwise.
  absl::StatusOr<TensorInfo> PutText(std::string_view name, std::string_view text, layout::Purpose purpose,
                                     std::optional<uint64_t> if_version = std::nullopt);
  // Tensors that go with the session of the first such put, until Keep or Commit; each 256 MiB of them has the connection's timeout. Aborted: that session has ended. `failed`: which one.
  // ttl: where they are at home at another node, which does not see that session end, they go then.
  absl::Status PutBound(absl::Span<const PutRequest> requests, size_t* failed, std::optional<absl::Duration> ttl = std::nullopt);
  absl::StatusOr<std::string> BoundSessionName();  // of the session that PutBound uses, as no other is called
  bool IsHere(std::string_view name);  // at home at this node

  struct Text {
    std::string text;
    uint64_t version = 0;  // 0: there is none, and the text is empty
  };
  absl::StatusOr<Text> ReadText(std::string_view name);
  absl::StatusOr<bool> Exists(std::string_view name) { return client_.Exists(name); }
  absl::StatusOr<TensorInfo> Wait(std::string_view name, uint64_t version, absl::Duration timeout) { return client_.Wait(name, version, timeout); }

  // What was put bound and stays from now on: here, under a prefix, and by any session, under names that are a prefix and a number.
  struct Staged {
    std::string prefix;
    std::vector<uint32_t> numbers;
  };
  struct Kept {
    std::string prefix;
    std::vector<Staged> staged;
  };
  // Aborted: the session that had put it has ended.
  absl::Status Keep(const Kept& kept);
  // The same, and the text is the name's next version, in one act; FailedPrecondition: the name is not at home at this node.
  absl::Status Commit(std::string_view name, std::string_view text, uint64_t if_version, const Kept& kept);
  // What was put bound here under a prefix, and nobody has kept, goes.
  absl::Status DropBound(const std::string& prefix);

  void DeleteVersion(std::string_view name, uint64_t version);  // unless it is not the present one any more; 0: whatever it is
  absl::Status DeletePrefix(std::string_view prefix);
  absl::StatusOr<ListPage> List(std::string_view prefix, std::string_view after) { return client_.List(prefix, after); }

 private:
  absl::StatusOr<Session*> BoundSession();

  std::shared_ptr<Connection> connection_;
  Client client_;
  Session* session_ = nullptr;  // that has put what is bound; the connection keeps it
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_INTERNAL_NAMES_H_
