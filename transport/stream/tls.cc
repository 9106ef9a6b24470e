#include "transport/stream/tls.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "transport/sys_error.h"

namespace penstock::stream {
namespace {

constexpr unsigned char kAes128GcmSha256[2] = {0x13, 0x01};  // the cipher suite's number (RFC 8446 B.4)
constexpr size_t kReadAheadBytes = size_t{128} << 10;         // records that one recv may bring

std::array<uint8_t, 32> Digest(std::string_view label, const LaneToken& token) {
  std::string text(label);
  text.append(reinterpret_cast<const char*>(token.data()), token.size());
  std::array<uint8_t, 32> out{};
  unsigned int size = 0;
  (void)EVP_Digest(text.data(), text.size(), out.data(), &size, EVP_sha256(), nullptr);
  return out;
}

// The last error of this thread's queue, for people.
std::string Reason() {
  const unsigned long code = ERR_peek_last_error();
  const char* const reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason == nullptr ? "no reason given" : reason;
}

// The session that TLS resumes from, for an external key.
SSL_SESSION* SessionOf(SSL* ssl, const TlsKey& key) {
  SSL_SESSION* const session = SSL_SESSION_new();
  const SSL_CIPHER* const cipher = SSL_CIPHER_find(ssl, kAes128GcmSha256);
  if (session == nullptr || cipher == nullptr || SSL_SESSION_set1_master_key(session, key.secret.data(), key.secret.size()) != 1 ||
      SSL_SESSION_set_cipher(session, cipher) != 1 || SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
    SSL_SESSION_free(session);
    return nullptr;
  }
  return session;
}

uint64_t rekey_after = TlsSession::kRekeyBytes;
std::atomic<uint64_t> key_changes_ever{0};

class OpenSslSession final : public TlsSession {
 public:
  OpenSslSession(int fd, const LaneToken* token, GrantTable* grants) : fd_(fd), grants_(grants) {
    if (token != nullptr) key_ = TlsKeyOf(*token);
  }
  ~OpenSslSession() override { SSL_free(ssl_); }

  absl::Status Begin() {
    static SSL_CTX* const context = NewContext();  // one for both roles; lives as long as the process
    ssl_ = context == nullptr ? nullptr : SSL_new(context);
    BIO* const bio = ssl_ == nullptr ? nullptr : BIO_new(SocketMethod());
    if (bio == nullptr) return absl::InternalError(absl::StrCat("TLS: OpenSSL: ", Reason()));
    BIO_set_data(bio, this);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl_, bio, bio);
    SSL_set_app_data(ssl_, this);
    if (grants_ == nullptr) {
      SSL_set_connect_state(ssl_);
    } else {
      SSL_set_accept_state(ssl_);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> Receive(char* to, size_t bytes) override {
    if (!failure_.ok()) return failure_;
    size_t got = 0;
    while (got < bytes) {  // one record a call: what lies here already is worth another
      ERR_clear_error();
      const int n = SSL_read(ssl_, to + got, static_cast<int>(std::min(bytes - got, kMostAtOnce)));
      drained_ = n <= 0;
      if (n <= 0) {
        NotNow(n, "receive");
        break;
      }
      shaken_ = true;
      got += static_cast<size_t>(n);
      if (SSL_has_pending(ssl_) == 0) break;
    }
    return Moved(got);
  }

  absl::StatusOr<size_t> Send(const char* from, size_t bytes) override {
    if (!failure_.ok()) return failure_;
    ERR_clear_error();
    size_t sent = 0;
    while (sent < bytes) {
      const int n = SSL_write(ssl_, from + sent, static_cast<int>(std::min(bytes - sent, kMostAtOnce)));
      if (n <= 0) {
        NotNow(n, "send");
        break;
      }
      shaken_ = true;
      sent += static_cast<size_t>(n);
    }
    of_this_key_ += sent;
    // Refused while a record waits to be sent: tried again after the next one.
    if (of_this_key_ >= rekey_after_ && SSL_key_update(ssl_, SSL_KEY_UPDATE_NOT_REQUESTED) == 1) {
      of_this_key_ = 0;
      key_changes_ever.fetch_add(1, std::memory_order_relaxed);
    }
    return Moved(sent);
  }

  void FinishSending() override {
    ERR_clear_error();
    if (failure_.ok() && !shaking_hands()) (void)SSL_shutdown(ssl_);
  }
  bool shaking_hands() const override { return !shaken_; }
  bool wants_output() const override { return SSL_want_write(ssl_) != 0; }
  bool has_input() const override { return !drained_ && SSL_has_pending(ssl_) != 0; }

 private:
  static constexpr size_t kMostAtOnce = size_t{1} << 30;

  // What was moved before a failure counts; the failure comes next time.
  absl::StatusOr<size_t> Moved(size_t bytes) {
    if (bytes == 0 && !failure_.ok()) return failure_;
    return bytes;
  }

  // After a call that moved nothing: not now, or never again?
  void NotNow(int result, const char* what) {
    const int error = SSL_get_error(ssl_, result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
      shaken_ = shaken_ || SSL_is_init_finished(ssl_) != 0;
      return;
    }
    failure_ = Why(error, what);
  }
  absl::Status Why(int error, const char* what) const {
    switch (error) {
      case SSL_ERROR_ZERO_RETURN: return absl::UnavailableError("the peer closed the connection");
      case SSL_ERROR_SYSCALL:
        if (errno_ != 0) return SysError(errno_, what);
        return absl::UnavailableError("the peer closed the connection");
      default: break;
    }
    if (closed_) return absl::UnavailableError("the peer closed the connection");
    if (shaking_hands()) return absl::PermissionDeniedError(absl::StrCat("the session is not known there, or is over (TLS: ", Reason(), ")"));
    return absl::UnavailableError(absl::StrCat("TLS: ", Reason()));
  }

  static SSL_CTX* NewContext() {
    SSL_CTX* const context = SSL_CTX_new(TLS_method());
    if (context == nullptr) return nullptr;
    (void)SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    (void)SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256");
    (void)SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    // Bytes are sent from where they lie, and a send that waits is repeated from there.
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, kReadAheadBytes);
    SSL_CTX_set_psk_use_session_callback(context, &UseKey);
    SSL_CTX_set_psk_find_session_callback(context, &FindKey);
    return context;
  }

  static OpenSslSession* Of(SSL* ssl) { return static_cast<OpenSslSession*>(SSL_get_app_data(ssl)); }

  // Client: which key to offer.
  static int UseKey(SSL* ssl, const EVP_MD* hash, const unsigned char** id, size_t* id_size, SSL_SESSION** session) {
    OpenSslSession* const self = Of(ssl);
    *session = nullptr;
    *id = self->key_.identity.data();
    *id_size = self->key_.identity.size();
    if (hash != nullptr && EVP_MD_get_type(hash) != NID_sha256) return 1;  // no key for that hash
    *session = SessionOf(ssl, self->key_);
    return *session != nullptr ? 1 : 0;
  }

  // Server: the key of what the client names.
  static int FindKey(SSL* ssl, const unsigned char* id, size_t id_size, SSL_SESSION** session) {
    *session = nullptr;
    TlsIdentity identity;
    if (id_size != identity.size()) return 1;
    std::memcpy(identity.data(), id, id_size);
    const std::optional<LaneToken> token = Of(ssl)->grants_->TokenOf(identity);
    if (!token.has_value()) return 1;  // no such key: without a certificate the handshake ends here
    *session = SessionOf(ssl, TlsKeyOf(*token));
    return *session != nullptr ? 1 : 0;
  }

  // OpenSSL's own socket BIO sends without MSG_NOSIGNAL.
  static const BIO_METHOD* SocketMethod() {
    static const BIO_METHOD* const method = [] {
      BIO_METHOD* const made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "penstock socket");
      if (made == nullptr) return made;
      BIO_meth_set_write(made, &WriteSocket);
      BIO_meth_set_read(made, &ReadSocket);
      BIO_meth_set_ctrl(made, [](BIO*, int command, long, void*) -> long { return command == BIO_CTRL_FLUSH ? 1 : 0; });
      return made;
    }();
    return method;
  }
  static int WriteSocket(BIO* bio, const char* from, int bytes) {
    OpenSslSession* const self = static_cast<OpenSslSession*>(BIO_get_data(bio));
    const ssize_t n = send(self->fd_, from, static_cast<size_t>(bytes), MSG_NOSIGNAL);
    BIO_clear_retry_flags(bio);
    if (n < 0 && self->Again(errno)) BIO_set_retry_write(bio);
    return static_cast<int>(n);
  }
  static int ReadSocket(BIO* bio, char* to, int bytes) {
    OpenSslSession* const self = static_cast<OpenSslSession*>(BIO_get_data(bio));
    const ssize_t n = recv(self->fd_, to, static_cast<size_t>(bytes), 0);
    BIO_clear_retry_flags(bio);
    if (n < 0 && self->Again(errno)) BIO_set_retry_read(bio);
    if (n == 0) self->closed_ = true;
    return static_cast<int>(n);
  }
  bool Again(int error) {
    if (error == EAGAIN || error == EWOULDBLOCK || error == EINTR) return true;
    errno_ = error;
    return false;
  }

  const int fd_;
  GrantTable* const grants_;  // null: the client's side
  TlsKey key_{};              // the client's
  SSL* ssl_ = nullptr;
  int errno_ = 0;  // of the socket, once it has failed
  bool closed_ = false;
  const uint64_t rekey_after_ = rekey_after;
  uint64_t of_this_key_ = 0;  // bytes sent
  absl::Status failure_;
  bool shaken_ = false;
  bool drained_ = true;  // what lies here is no whole record
};

absl::StatusOr<std::unique_ptr<TlsSession>> Open(int fd, const LaneToken* token, GrantTable* grants) {
  auto session = std::make_unique<OpenSslSession>(fd, token, grants);
  if (absl::Status s = session->Begin(); !s.ok()) return s;
  return session;
}

}  // namespace

TlsKey TlsKeyOf(const LaneToken& token) {
  const std::array<uint8_t, 32> name = Digest("penstock stream identity 1", token);
  TlsKey key{.identity = {}, .secret = Digest("penstock stream key 1", token)};
  std::copy_n(name.begin(), key.identity.size(), key.identity.begin());
  return key;
}

void TlsSession::RekeyAfterForTest(uint64_t bytes) { rekey_after = bytes; }
uint64_t TlsSession::key_changes() { return key_changes_ever.load(); }

absl::StatusOr<std::unique_ptr<TlsSession>> TlsSession::Client(int fd, const LaneToken& token) { return Open(fd, &token, nullptr); }
absl::StatusOr<std::unique_ptr<TlsSession>> TlsSession::Server(int fd, GrantTable* grants) { return Open(fd, nullptr, grants); }

}  // namespace penstock::stream
