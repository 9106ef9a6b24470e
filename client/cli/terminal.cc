#include "client/cli/terminal.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "proto/sizes.h"
#include "proto/strcat.h"
#include "transport/monotonic.h"

namespace penstock::cli {
namespace {

constexpr uint64_t kLeastShown = uint64_t{64} << 20;
constexpr uint64_t kPieceBytes = uint64_t{8} << 20;
constexpr int64_t kRedrawNs = 100'000'000;
constexpr int kBarCells = 24;

volatile sig_atomic_t g_interrupted = 0;
void OnInterrupt(int) { g_interrupted = 1; }

bool HasColours() {
  static const bool colours = [] {
    const char* no_color = std::getenv("NO_COLOR");
    const char* term = std::getenv("TERM");
    const bool refused = no_color != nullptr && *no_color != '\0';
    return StdoutIsTerminal() && !refused && term != nullptr && std::string_view(term) != "dumb";
  }();
  return colours;
}

}  // namespace

bool StdoutIsTerminal() { return isatty(STDOUT_FILENO) == 1; }
bool StdinIsTerminal() { return isatty(STDIN_FILENO) == 1; }

int TerminalWidth() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::string Styled(Style style, std::string_view text) {
  if (!HasColours()) return std::string(text);
  std::string_view code;
  switch (style) {
    case Style::kBold:
      code = "1";
      break;
    case Style::kDim:
      code = "2";
      break;
    case Style::kGood:
      code = "32";
      break;
    case Style::kWarn:
      code = "33";
      break;
    case Style::kBad:
      code = "31";
      break;
  }
  return StrCat("\x1b[", code, "m", text, "\x1b[0m");
}

void CatchInterrupts() {
  struct sigaction action {};
  action.sa_handler = OnInterrupt;  // without SA_RESTART: waits end at once
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool Interrupted() { return g_interrupted != 0; }

void WaitForInterrupt(absl::Duration duration) {
  // The signals are blocked while the flag is read, or one between the look and the wait were lost.
  sigset_t stop, before;
  sigemptyset(&stop);
  sigaddset(&stop, SIGINT);
  sigaddset(&stop, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop, &before);
  if (!Interrupted()) {
    const timespec wait = absl::ToTimespec(duration);
    if (sigtimedwait(&stop, nullptr, &wait) > 0) g_interrupted = 1;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Progress::Progress(std::string_view label, uint64_t total)
    : label_(label), total_(total), shown_(isatty(STDERR_FILENO) == 1), next_draw_ns_(MonotonicNanos()) {}

Progress::~Progress() {
  if (shown_) std::fputs("\r\x1b[K", stderr);
}

void Progress::Advance(uint64_t bytes) {
  const uint64_t done = done_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  if (!shown_) return;
  int64_t due = next_draw_ns_.load(std::memory_order_relaxed);
  const int64_t now = MonotonicNanos();
  // One thread wins the turn to draw.
  if (now >= due && next_draw_ns_.compare_exchange_strong(due, now + kRedrawNs)) Draw(done);
}

absl::Status Progress::InPieces(std::string_view label, uint64_t total, const std::function<absl::Status(uint64_t, uint64_t)>& move) {
  if (total < kLeastShown) return move(0, total);
  Progress progress(label, total);
  for (uint64_t done = 0; done < total; done += kPieceBytes) {
    const uint64_t bytes = std::min(kPieceBytes, total - done);
    if (absl::Status s = move(done, bytes); !s.ok()) return s;
    progress.Advance(bytes);
  }
  return absl::OkStatus();
}

void Progress::Draw(uint64_t done) const {
  std::string line = StrCat("\r", label_, "  ");
  if (total_ != 0) {
    const auto filled =
        static_cast<size_t>(static_cast<double>(done) / static_cast<double>(total_) * kBarCells);
    const size_t cells = std::min<size_t>(filled, kBarCells);
    StrAppend(&line, "[", std::string(cells, '#'), std::string(kBarCells - cells, ' '), "] ");
  }
  StrAppend(&line, FormatSize(done));
  if (total_ != 0) StrAppend(&line, " of ", FormatSize(total_));
  std::fputs(StrCat(line, "\x1b[K").c_str(), stderr);
}

}  // namespace penstock::cli
