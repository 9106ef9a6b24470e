// NodeProcess: a penstockd of its own for a test, in a temporary socket directory.
//
// Threading:  one thread
// Ownership:  owns the daemon and the directory; both are gone after it
// Errors:     Start fails the test when the daemon does not serve within 20 s
// Limits:     the daemon also ends with this process
#ifndef PENSTOCK_TESTS_CLIENT_NODE_PROCESS_H_
#define PENSTOCK_TESTS_CLIENT_NODE_PROCESS_H_

#include <penstock/client.h>
#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "store.pb.h"

namespace penstock::testing {

class NodeProcess {
 public:
  explicit NodeProcess(const std::string& memory = "128MiB",
                       const std::vector<std::string>& flags = {});
  ~NodeProcess();

  const std::string& dir() const { return dir_; }
  pid_t warden_pid() const { return pid_; }
  // Ends the daemon and waits for its end.
  void Stop(int signal);

  std::unique_ptr<Client> Connect(const std::string& label = "test") const;

 private:
  std::string dir_;
  pid_t pid_ = -1;
};

v1::DfResponse Df(Client& client);
v1::NodeInfoResponse NodeInfo(Client& client);

// Looks again until it is true; false after 10 s.
bool Eventually(const std::function<bool()>& condition);

// In a forked child: the result of `body` is the exit code. Returns whether it was 0.
bool InChild(const std::function<int()>& body);
// Forks `body`; the child ends with its result.
pid_t ForkChild(const std::function<int()>& body);
bool JoinChild(pid_t pid);

// `count` floats that depend on `seed`.
std::vector<float> Floats(size_t count, float seed);
ConstTensorRef Ref(const std::vector<float>& values);

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_CLIENT_NODE_PROCESS_H_
