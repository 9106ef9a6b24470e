#include "server/warden/ready_relay.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>

namespace penstock::warden {

bool ReadyRelay::OnReadable(int pipe) {
  char buffer[4096];
  pollfd readable{pipe, POLLIN, 0};
  if (poll(&readable, 1, 0) != 1) return false;
  const ssize_t bytes = read(pipe, buffer, sizeof(buffer));
  if (bytes <= 0) {
    line_.clear();  // it died half way; the next one says it anew
    return true;
  }
  line_.append(buffer, std::min(static_cast<size_t>(bytes), sizeof(buffer) - line_.size()));
  const size_t end = line_.find('\n');
  if (end == std::string::npos && line_.size() < sizeof(buffer)) return false;
  line_.resize(std::min(end, line_.size()));
  Tell();
  return true;
}

void ReadyRelay::Tell() {
  told_ = true;
  if (ready_fd_ < 0) return;
  line_ += '\n';
  for (size_t done = 0; done < line_.size();) {
    const ssize_t written = write(ready_fd_, line_.data() + done, line_.size() - done);
    if (written <= 0) break;  // nobody reads (SIGPIPE is ignored in penstockd)
    done += static_cast<size_t>(written);
  }
  if (ready_fd_ > 2) close(ready_fd_);
  ready_fd_ = -1;
}

}  // namespace penstock::warden
