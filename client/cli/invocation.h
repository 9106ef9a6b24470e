// One call of the command line: the verb, what the user wrote, the connection, and what becomes
// the exit code.
//
// Threading:  Report: any thread. The rest: one thread at a time (the Client itself: any thread).
// Ownership:  owns the Client, which it makes when a verb first asks for it.
// Errors:     Connect: UNAVAILABLE (no node), FAILED_PRECONDITION (layout version).
// Limits:     none.
#ifndef PENSTOCK_CLIENT_CLI_INVOCATION_H_
#define PENSTOCK_CLIENT_CLI_INVOCATION_H_

#include <penstock/client.h>

#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/flags.h"
#include "client/cli/verb.h"
#include "proto/rpc_methods.h"

namespace penstock::cli {

using Json = nlohmann::ordered_json;

class Invocation {
 public:
  Invocation(const Verb& verb, Args args) : verb_(verb), args_(std::move(args)) {}

  const Verb& verb() const { return verb_; }
  const Args& args() const { return args_; }
  bool json() const { return args_.Get("output") == "json"; }

  // The connection of this call; made on first use.
  absl::StatusOr<Client*> Connect();
  // For calls that take their time: patience unless --timeout says otherwise. Before the first call.
  void BePatient(absl::Duration patience) { patience_ = patience; }

  // One control call: the request of store.proto's method in, its response out.
  template <class Response, class Request>
  absl::StatusOr<Response> Call(rpc::Method method, const Request& request);

  // One JSON value on a line of its own.
  void PrintJson(const Json& value) const;
  // Text without a line end of its own.
  void Print(std::string_view text) const;

  // Says an error on standard error and keeps its exit code, for verbs that go on with the rest.
  void Report(const absl::Status& status);
  // A remark on standard error that changes nothing.
  void Warn(std::string_view text) const;

  // Writes out what is buffered, tells `status` if it is an error, and gives the exit code.
  int Finish(const absl::Status& status);

 private:
  absl::StatusOr<std::string> CallBytes(rpc::Method method, const std::string& request);

  const Verb& verb_;
  const Args args_;
  std::unique_ptr<Client> client_;
  std::optional<absl::Duration> patience_;
  std::mutex mutex_;
  int exit_code_ = 0;  // guarded by mutex_
};

template <class Response, class Request>
absl::StatusOr<Response> Invocation::Call(rpc::Method method, const Request& request) {
  absl::StatusOr<std::string> bytes = CallBytes(method, request.SerializeAsString());
  if (!bytes.ok()) return bytes.status();
  Response response;
  if (!response.ParseFromString(*bytes)) {
    return absl::InternalError("the node's answer cannot be read: are versions mixed?");
  }
  return response;
}

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_INVOCATION_H_
