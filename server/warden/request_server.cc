#include "server/warden/request_server.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/fd_socket/fd_socket.h"

namespace penstock::warden {
namespace {

// One round of the warden's loop; the rest waits for the next, so that signals are not starved.
constexpr int kMessagesARound = 64;

absl::Status Send(int socket, const Reply& reply, absl::Span<const int> fds = {}) {
  return SendMessage(socket, {reinterpret_cast<const char*>(&reply), sizeof(reply)}, fds,
                     absl::ZeroDuration());
}

Reply MakeReply(uint64_t number, const absl::Status& result) {
  Reply reply{};
  reply.magic = kWardenMagic;
  reply.number = number;
  reply.code = static_cast<int32_t>(result.code());
  const size_t length = std::min(result.message().size(), sizeof(reply.text));
  if (length > 0) std::memcpy(reply.text, result.message().data(), length);
  reply.text_bytes = static_cast<uint32_t>(length);
  return reply;
}

absl::Status CheckFdCount(const char* operation, size_t count, size_t expected) {
  if (count == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(operation, ": the message has ", count, " descriptors, must be ", expected));
}

}  // namespace

absl::Status RequestServer::OnReadable(int socket) {
  for (int i = 0; i < kMessagesARound; ++i) {
    Request request;
    auto received = ReceiveMessage(socket, {reinterpret_cast<char*>(&request), sizeof(request)},
                                   absl::ZeroDuration());
    if (!received.ok()) {
      return absl::IsDeadlineExceeded(received.status()) ? absl::OkStatus() : received.status();
    }
    if (received->end_of_file) return absl::UnavailableError("the node closed its socket");
    if (received->size != sizeof(request) || request.magic != kWardenMagic ||
        request.blob_bytes > kMaxBlobBytes) {
      return absl::InternalError(
          absl::StrCat("the node sent a malformed request of ", received->size, " bytes"));
    }
    if (absl::Status served = Serve(socket, request, std::move(received->fds)); !served.ok()) {
      return served;
    }
  }
  return absl::OkStatus();
}

absl::Status RequestServer::Serve(int socket, const Request& request, std::vector<UniqueFd> fds) {
  absl::Status result;
  switch (request.op) {
    case Op::kCreateSegment:
      return Create(socket, request);
    case Op::kPopulateSegment:
      return Populate(socket, request);
    case Op::kMarkSealed:
      result = segments_.CheckSealed(static_cast<uint32_t>(request.id));
      break;
    case Op::kDropSegment:
      result = DropSegment(static_cast<uint32_t>(request.id));
      break;
    case Op::kKeepSession:
      result = Keep(request, std::move(fds));
      if (result.ok() && (request.flags & kFlagMore) != 0) return absl::OkStatus();
      break;
    case Op::kAddSessionFd:
      result = CheckFdCount("add a descriptor", fds.size(), 1);
      if (result.ok()) result = sessions_.AddFd(request.id, std::move(fds[0]));
      break;
    case Op::kDropSession:
      result = sessions_.Drop(request.id);
      break;
    case Op::kRestartNode:
      return Restart(socket, request);
    default:
      result = absl::UnimplementedError(
          absl::StrCat("the warden knows no operation ", static_cast<uint32_t>(request.op)));
  }
  return Answer(socket, request.number, result);
}

absl::Status RequestServer::Create(int socket, const Request& request) {
  const auto entry =
      segments_.Create(static_cast<layout::SegmentKind>(request.kind), request.bytes,
                       (request.flags & kFlagHugePages) != 0, (request.flags & kFlagPopulate) == 0);
  if (!entry.ok()) return Answer(socket, request.number, entry.status());
  Reply reply = MakeReply(request.number, absl::OkStatus());
  reply.id = (*entry)->id;
  reply.bytes = (*entry)->mapping.size();
  reply.page_kind = static_cast<uint32_t>((*entry)->page_kind);
  return Send(socket, reply, {(*entry)->fd.get()});
}

absl::Status RequestServer::Populate(int socket, const Request& request) {
  const uint32_t id = static_cast<uint32_t>(request.id);
  const auto entry = segments_.Find(id);
  if (!entry.ok()) return Answer(socket, request.number, entry.status());
  for (const Populating& running : populating_) {
    if (running.segment == id) {
      return Answer(socket, request.number,
                    absl::AlreadyExistsError(
                        absl::StrCat("populate: segment ", id, " is being populated already")));
    }
  }
  PopulateOptions options;
  options.address = (*entry)->mapping.data();
  options.length = (*entry)->mapping.size();
  auto child = PopulateChild::Start(options);
  if (!child.ok()) {
    segments_.Drop(id).IgnoreError();  // it was there a moment ago
    return Answer(socket, request.number, child.status());
  }
  populating_.push_back({request.number, id, *std::move(child)});
  return absl::OkStatus();
}

absl::Status RequestServer::Restart(int socket, const Request& request) {
  if (checking_) {
    return Answer(socket, request.number,
                  absl::AlreadyExistsError("restart: the node library is being checked already"));
  }
  auto child = LibraryCheck::Start(node_library_);
  if (!child.ok()) return Answer(socket, request.number, child.status());
  checking_.emplace(Checking{request.number, *std::move(child)});
  return absl::OkStatus();
}

absl::Status RequestServer::OnChecked(int socket) {
  pollfd ended{checking_->child.pidfd(), POLLIN, 0};
  if (poll(&ended, 1, 0) != 1) return absl::OkStatus();
  absl::StatusOr<std::string> version = checking_->child.Wait();
  const uint64_t number = checking_->number;
  checking_.reset();
  if (version.ok()) restart_ = *std::move(version);
  return Answer(socket, number, version.status());
}

void RequestServer::AppendPollFds(std::vector<pollfd>* fds) const {
  for (const Populating& running : populating_) fds->push_back({running.child.pidfd(), POLLIN, 0});
  if (checking_) fds->push_back({checking_->child.pidfd(), POLLIN, 0});
}

absl::Status RequestServer::OnChildren(int socket) {
  absl::Status sent = checking_ ? OnChecked(socket) : absl::OkStatus();
  for (auto it = populating_.begin(); it != populating_.end();) {
    pollfd ended{it->child.pidfd(), POLLIN, 0};
    if (poll(&ended, 1, 0) != 1) {
      ++it;
      continue;
    }
    absl::Status result = it->child.Wait();
    if (result.ok()) {
      result = segments_.SetReady(it->segment);
    } else {
      segments_.Drop(it->segment).IgnoreError();  // the answer tells the node that it is gone
    }
    sent.Update(Answer(socket, it->number, result));
    it = populating_.erase(it);
  }
  return sent;
}

absl::Status RequestServer::DropSegment(uint32_t id) {
  for (const Populating& running : populating_) {
    if (running.segment == id) {
      return absl::FailedPreconditionError(
          absl::StrCat("drop segment: segment ", id, " is being populated"));
    }
  }
  return segments_.Drop(id);
}

absl::Status RequestServer::Keep(const Request& request, std::vector<UniqueFd> fds) {
  if (!parts_.open || parts_.id != request.id) parts_ = Parts{true, request.id, {}};
  std::move(fds.begin(), fds.end(), std::back_inserter(parts_.fds));
  if (parts_.fds.size() > kMaxKeptFds) {
    const size_t count = parts_.fds.size();
    parts_ = Parts{};
    return absl::InvalidArgumentError(
        absl::StrCat("keep session: ", count, " descriptors; allowed are ", kMaxKeptFds));
  }
  if ((request.flags & kFlagMore) == 0) {
    sessions_.Keep(request.id, std::string(request.blob, request.blob_bytes),
                   std::move(parts_.fds));
    parts_ = Parts{};
  }
  return absl::OkStatus();
}

absl::Status RequestServer::Answer(int socket, uint64_t number, const absl::Status& result) {
  return Send(socket, MakeReply(number, result));
}

void RequestServer::Abandon() {
  populating_.clear();  // kills and reaps the children
  checking_.reset();
  segments_.DropUnready();
  parts_ = Parts{};
}

}  // namespace penstock::warden
