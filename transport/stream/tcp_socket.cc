#include "transport/stream/tcp_socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/sys_error.h"

namespace penstock {
namespace {

constexpr int kBacklog = 512;
// A host that vanished without a word is noticed after about 10 s of silence; a process that is stopped is not: deadlines
// are there for that.
constexpr int kKeepAliveIdleSeconds = 5;
constexpr int kKeepAliveIntervalSeconds = 2;
constexpr int kKeepAliveProbes = 3;
constexpr unsigned kUserTimeoutMillis = 10'000;

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<AddressList> Resolve(const std::string& host, const std::string& port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &found);
  if (rc != 0) {
    return absl::InvalidArgumentError(absl::StrCat("address ", host, ":", port, ": ", gai_strerror(rc)));
  }
  return AddressList(found, freeaddrinfo);
}

void SetOption(int fd, int level, int option, int value) { (void)setsockopt(fd, level, option, &value, sizeof(value)); }

void Prepare(int fd) {
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveIdleSeconds);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveIntervalSeconds);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
  SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMillis);
}

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

}  // namespace

absl::StatusOr<TcpSocket> TcpSocket::BeginConnect(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return absl::InvalidArgumentError(absl::StrCat("address ", address, ": has no port"));
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  const absl::StatusOr<AddressList> list = Resolve(host, address.substr(colon + 1), 0);
  if (!list.ok()) return list.status();
  const addrinfo* to = list->get();
  TcpSocket socket(UniqueFd(::socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)));
  if (!socket) return SysError(errno, "socket(TCP)");
  Prepare(socket.fd());
  if (connect(socket.fd(), to->ai_addr, to->ai_addrlen) != 0 && errno != EINPROGRESS) {
    return SysError(errno, absl::StrCat("connect to ", address));
  }
  return socket;
}

absl::Status TcpSocket::ConnectError() const {
  int error = 0;
  socklen_t size = sizeof(error);
  if (getsockopt(fd(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  return error == 0 ? absl::OkStatus() : SysError(error, "connect");
}

absl::Status TcpSocket::UseTlsAsClient(const LaneToken& token) {
  absl::StatusOr<std::unique_ptr<stream::TlsSession>> tls = stream::TlsSession::Client(fd(), token);
  if (tls.ok()) tls_ = *std::move(tls);
  return tls.status();
}

absl::Status TcpSocket::UseTlsAsServer(GrantTable* grants) {
  absl::StatusOr<std::unique_ptr<stream::TlsSession>> tls = stream::TlsSession::Server(fd(), grants);
  if (tls.ok()) tls_ = *std::move(tls);
  return tls.status();
}

short TcpSocket::PollEvents(short wanted) const {
  if (tls_ == nullptr || !tls_->shaking_hands()) return wanted;
  return tls_->wants_output() ? POLLOUT : POLLIN;
}

absl::StatusOr<size_t> TcpSocket::Receive(char* to, size_t bytes) {
  if (tls_ != nullptr) return tls_->Receive(to, bytes);
  const ssize_t n = recv(fd(), to, bytes, 0);
  if (n > 0) return static_cast<size_t>(n);
  if (n == 0) return absl::UnavailableError("the peer closed the connection");
  if (WouldBlock(errno) || errno == EINTR) return size_t{0};
  return SysError(errno, "receive");
}

absl::StatusOr<size_t> TcpSocket::Send(const char* from, size_t bytes, bool more_follows) {
  if (tls_ != nullptr) return tls_->Send(from, bytes);
  const ssize_t n = send(fd(), from, bytes, MSG_NOSIGNAL | (more_follows ? MSG_MORE : 0));
  if (n >= 0) return static_cast<size_t>(n);
  if (WouldBlock(errno) || errno == EINTR) return size_t{0};
  return SysError(errno, "send");
}

void TcpSocket::FinishSending() {
  if (tls_ != nullptr) tls_->FinishSending();
  (void)shutdown(fd(), SHUT_WR);
}

std::string TcpAddress(const std::string& host, int port) {
  const bool v6 = host.find(':') != std::string::npos;
  return absl::StrCat(v6 ? "[" : "", host, v6 ? "]:" : ":", port);
}

absl::StatusOr<UniqueFd> ListenTcp(const std::string& host, int port) {
  const absl::StatusOr<AddressList> list = Resolve(host, absl::StrCat(port), AI_PASSIVE);
  if (!list.ok()) return list.status();
  const addrinfo* at = list->get();
  UniqueFd fd(socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return SysError(errno, "socket(TCP)");
  SetOption(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (bind(fd.get(), at->ai_addr, at->ai_addrlen) != 0 || listen(fd.get(), kBacklog) != 0) {
    return SysError(errno, absl::StrCat("listen on ", host, ":", port));
  }
  return fd;
}

absl::StatusOr<int> BoundPort(int listener) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) != 0) return SysError(errno, "getsockname");
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                              : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

absl::StatusOr<TcpSocket> AcceptTcp(int listener) {
  UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) return SysError(errno, "accept");
    return TcpSocket();  // nobody, or one that gave up already
  }
  Prepare(fd.get());
  return TcpSocket(std::move(fd));
}

}  // namespace penstock
