#include "client/cli/invocation.h"

#include <cerrno>
#include <cstdio>

#include "client/cli/returning.h"
#include "proto/errors.h"
#include "proto/strcat.h"

namespace penstock::cli {

absl::StatusOr<Client*> Invocation::Connect() {
  if (client_ == nullptr) {
    CLI_ASSIGN_OR_RETURN(const std::optional<absl::Duration> timeout, args_.Duration("timeout"));
    ClientOptions options;
    options.address = args_.Get("address");
    options.tenant = args_.Get("tenant");
    options.timeout = args_.Has("timeout") ? *timeout : patience_.value_or(*timeout);
    options.label = StrCat("penstock ", verb_.name);
    CLI_ASSIGN_OR_RETURN(client_, Client::Connect(options));
  }
  return client_.get();
}

absl::StatusOr<std::string> Invocation::CallBytes(rpc::Method method, const std::string& request) {
  CLI_ASSIGN_OR_RETURN(Client* const client, Connect());
  return client->Call(static_cast<uint32_t>(method), request);
}

void Invocation::PrintJson(const Json& value) const {
  Print(StrCat(value.dump(-1, ' ', false, Json::error_handler_t::replace), "\n"));
}

void Invocation::Print(std::string_view text) const {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

void Invocation::Report(const absl::Status& status) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (exit_code_ == 0) exit_code_ = ExitCode(status);
  std::fflush(stdout);
  std::fputs(StrCat("penstock ", verb_.name, ": ", status.message(), "\n").c_str(), stderr);
}

void Invocation::Warn(std::string_view text) const {
  std::fputs(StrCat("penstock ", verb_.name, ": ", text, "\n").c_str(), stderr);
}

int Invocation::Finish(const absl::Status& status) {
  if (!status.ok()) Report(status);
  const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  // A reader that had enough (`penstock ls | head`) is no error worth a message.
  if (!written && errno != EPIPE) Report(ErrnoStatus(errno, "write to standard output"));
  if (!written && exit_code_ == 0) exit_code_ = 1;
  return exit_code_;
}

}  // namespace penstock::cli
