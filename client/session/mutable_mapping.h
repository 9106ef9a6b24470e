// MutableMapping: one opening of a channel or region by this process: its memory, mapped, until it is closed.
//
// Threading:  Open and the accessors: any thread; made once, then constant
// Ownership:  shared by handles, steps and arrays made from them; the last one unmaps it and tells the node. Holds a
//             reference to its session.
// Errors:     those of the node's answer; Internal for an answer that does not add up
// Limits:     opening costs two exchanges on the fd socket (a channel's writer), else one
#ifndef PENSTOCK_CLIENT_SESSION_MUTABLE_MAPPING_H_
#define PENSTOCK_CLIENT_SESSION_MUTABLE_MAPPING_H_

#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/session/deadline.h"
#include "client/session/turns.h"
#include "penstock/dtype.h"
#include "penstock/shape.h"
#include "proto/layout/fd_messages.h"
#include "transport/segment/mapping.h"
#include "transport/unique_fd.h"

namespace penstock::client {

class MutableMapping {
 public:
  struct Request {
    layout::MutableKind kind;
    bool create = false;
    bool exclusive = false;
    std::string_view name;
    uint64_t nbytes = 0;
    uint32_t slots = 0;
    DType dtype = DType::kInvalid;
    Shape shape;
  };
  // NotFound: there is none with this name yet, Unavailable: its node is not heard; it waits for one so long.
  static absl::StatusOr<std::shared_ptr<MutableMapping>> Open(Connection* connection, const Request& request,
                                                              absl::Duration wait);
  // Whether there was one.
  static absl::StatusOr<bool> Delete(Connection* connection, const Request& request);
  MutableMapping(const MutableMapping&) = delete;
  MutableMapping& operator=(const MutableMapping&) = delete;
  ~MutableMapping();

  const layout::MutableReply& info() const { return info_; }
  const Shape& shape() const { return shape_; }
  DType dtype() const { return static_cast<DType>(info_.dtype); }
  char* memory() const { return mapping_.data(); }  // read-only memory in a reader of a channel
  Session* session() const { return session_; }
  Turns& turns() const { return turns_; }
  // Mapped by this process, not by one that it was forked from.
  bool OfThisProcess() const;
  // The name goes now, though the memory stays mapped (by arrays). Of a channel's writer.
  void GiveUpName();
  // After a step of a channel's writer: those who read elsewhere are told.
  void RingBell() const;
  // Why nothing will come of it any more; OK while the store lives.
  absl::Status CheckSession() const;

 private:
  MutableMapping(Session* session, const layout::MutableReply& info, uint64_t opened, Mapping mapping, UniqueFd bell);
  static absl::StatusOr<std::shared_ptr<MutableMapping>> OpenOnce(Session* session, const Request& request,
                                                                  const Deadline& deadline);
  absl::Status FinishWriter(const Deadline& deadline);
  void TellClosed(uint32_t flags);

  Session* const session_;  // counted
  const layout::MutableReply info_;
  const Shape shape_;
  const uint64_t opened_;  // number of the request
  const uint64_t fork_count_;
  Mapping mapping_;
  const UniqueFd bell_;  // of a channel's writer
  mutable Turns turns_;
  bool not_in_children_ = false;  // a forked child does not have it
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_MUTABLE_MAPPING_H_
