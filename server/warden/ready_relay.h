// ReadyRelay: passes on the one line that a node writes when it serves.
//
// It goes through the warden because the warden must know whether a node has ever served (one that
// cannot even start is not tried for ever), and because the line is owed once, whichever node is
// the first to serve.
//
// Threading:  one thread at a time
// Ownership:  closes the descriptor it was given once the line is out, unless it is 0, 1 or 2
// Errors:     a reader that is gone is no error: nobody waits for the line
// Limits:     lines of at most 4096 bytes, longer ones are cut
#ifndef PENSTOCK_SERVER_WARDEN_READY_RELAY_H_
#define PENSTOCK_SERVER_WARDEN_READY_RELAY_H_

#include <string>

namespace penstock::warden {

class ReadyRelay {
 public:
  explicit ReadyRelay(int ready_fd) : ready_fd_(ready_fd) {}
  ReadyRelay(const ReadyRelay&) = delete;
  ReadyRelay& operator=(const ReadyRelay&) = delete;

  // Reads what a node has written into its pipe. True when nothing more is to come from it.
  bool OnReadable(int pipe);

  bool told() const { return told_; }
  // Not for a node: its copy would hide the end of the line from a parent that reads to the end.
  int fd() const { return ready_fd_ > 2 ? ready_fd_ : -1; }

 private:
  void Tell();

  int ready_fd_;
  bool told_ = false;
  std::string line_;
};

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_READY_RELAY_H_
