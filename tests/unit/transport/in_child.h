// InChild: runs a piece of a test in a forked child and returns its exit status.
//
// Threading:  only from tests with one thread
// Ownership:  the child is reaped before the call returns
// Errors:     -signal when the child was killed
// Limits:     the child cannot report gtest failures; it reports by its status
#ifndef PENSTOCK_TESTS_UNIT_TRANSPORT_IN_CHILD_H_
#define PENSTOCK_TESTS_UNIT_TRANSPORT_IN_CHILD_H_

#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace penstock {

inline int InChild(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace penstock

#endif  // PENSTOCK_TESTS_UNIT_TRANSPORT_IN_CHILD_H_
