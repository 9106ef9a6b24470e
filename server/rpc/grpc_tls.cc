#include "server/rpc/grpc_tls.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <cerrno>

#include "proto/errors.h"
#include "proto/strcat.h"

namespace penstock::server {
namespace {

constexpr unsigned kReadAgainSeconds = 1;

absl::Status Wrong(std::string_view flag, const std::string& path) {
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  if (access(path.c_str(), R_OK) != 0) return ErrnoStatus(errno, StrCat("--", flag, "=", path));
  return absl::InvalidArgumentError(StrCat("--", flag, "=", path, ": ", reason == nullptr ? "not what it should be" : reason));
}

std::shared_ptr<grpc::experimental::CertificateProviderInterface> ProviderOf(const TlsFiles& files) {
  return std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(files.key, files.cert, files.ca, kReadAgainSeconds);
}

}  // namespace

absl::Status CheckTlsFiles(const TlsFiles& files) {
  if (!files.on()) return absl::OkStatus();
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_method()), &SSL_CTX_free);
  if (context == nullptr) return absl::InternalError("TLS: no context of OpenSSL's");
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(context.get(), files.cert.c_str()) != 1) return Wrong("tls_cert", files.cert);
  if (SSL_CTX_use_PrivateKey_file(context.get(), files.key.c_str(), SSL_FILETYPE_PEM) != 1) return Wrong("tls_key", files.key);
  if (SSL_CTX_check_private_key(context.get()) != 1) return Wrong("tls_key", files.key);
  if (SSL_CTX_load_verify_file(context.get(), files.ca.c_str()) != 1) return Wrong("tls_ca", files.ca);
  return absl::OkStatus();
}

std::shared_ptr<grpc::ServerCredentials> ServerCredentialsOf(const TlsFiles& files) {
  if (!files.on()) return grpc::InsecureServerCredentials();
  grpc::experimental::TlsServerCredentialsOptions options(ProviderOf(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  return grpc::experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> PeerCredentialsOf(const TlsFiles& files) {
  if (!files.on()) return grpc::InsecureChannelCredentials();
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(ProviderOf(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> EtcdCredentialsOf(const TlsFiles& files) {
  if (files.on() || files.ca.empty()) return PeerCredentialsOf(files);
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(files.ca, kReadAgainSeconds));
  options.watch_root_certs();
  return grpc::experimental::TlsCredentials(options);
}

}  // namespace penstock::server
