// The node process: what libpenstock_node.so runs in the child that the warden forked.
#include <signal.h>

#include <cstdio>
#include <string>

#include "absl/synchronization/mutex.h"
#include "proto/strcat.h"
#include "server/node/running_node.h"
#include "server/warden/node_abi.h"

namespace penstock::server {

namespace {

void Say(const std::string& line) { fprintf(stderr, "penstockd: %s\n", line.c_str()); }

sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

absl::Status RunNode(warden::NodeContext* context) {
  // For gRPC's locks: Debian's Abseil looks for lock cycles at every lock.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const sigset_t stop_signals = BlockStopSignals();
  RunningNode node(context, Say);
  if (absl::Status s = node.Start(); !s.ok()) return s;
  return node.Run(stop_signals);
}

}  // namespace

}  // namespace penstock::server

extern "C" int penstock_node_main(penstock::warden::NodeContext* context) {
  const absl::Status status = penstock::server::RunNode(context);
  if (status.ok()) return 0;
  penstock::server::Say(penstock::StrCat("node: ", std::string(status.message())));
  return 1;
}
