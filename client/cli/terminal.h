// What standard output and standard error are connected to: colours, widths, progress bars, Ctrl-C.
//
// The one place of the command line that looks at NO_COLOR and TERM.
//
// Threading:  Progress::Advance from any thread; the rest one thread at a time.
// Ownership:  Progress clears its line when it ends.
// Errors:     none: what is no terminal gets no colours and no bars.
// Limits:     a bar is redrawn at most 10 times a second.
#ifndef PENSTOCK_CLIENT_CLI_TERMINAL_H_
#define PENSTOCK_CLIENT_CLI_TERMINAL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace penstock::cli {

enum class Style { kBold, kDim, kGood, kWarn, kBad };

bool StdoutIsTerminal();
bool StdinIsTerminal();
int TerminalWidth();  // of standard output; 80 when it is no terminal

// `text` in a style when standard output is a terminal that shows them and NO_COLOR is not set.
std::string Styled(Style style, std::string_view text);

// Makes Ctrl-C and SIGTERM set a flag instead of ending the process: for verbs that go on until
// they are stopped.
void CatchInterrupts();
bool Interrupted();

// Waits until `duration` is over or an interrupt came.
void WaitForInterrupt(absl::Duration duration);

// A bar on standard error, when that is a terminal: "importing  [#####     ] 45.2MiB of 86.7MiB".
class Progress {
 public:
  // `total` in bytes; 0 = not known.
  Progress(std::string_view label, uint64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Advance(uint64_t bytes);

  // Calls `move(offset, bytes)` for one piece of `total` bytes after the other, and advances a bar by them; none for what is
  // done before anybody has looked. Ends with the first error.
  static absl::Status InPieces(std::string_view label, uint64_t total,
                               const std::function<absl::Status(uint64_t offset, uint64_t bytes)>& move);

 private:
  void Draw(uint64_t done) const;

  const std::string label_;
  const uint64_t total_;
  const bool shown_;
  std::atomic<uint64_t> done_{0};
  std::atomic<int64_t> next_draw_ns_;
};

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_TERMINAL_H_
