#include "client/session/own_rdma.h"

#include <csignal>

#include <utility>
#include <vector>

#include "client/session/fork.h"
#include "client/session/own_library.h"
#include "proto/strcat.h"

namespace penstock::client {
namespace {

// UCX 1.13 takes SIGSEGV, SIGBUS and others, and SIGHUP for its debugger, when it is loaded. They are the process's.
class KeptSignalHandlers {
 public:
  KeptSignalHandlers() : before_(static_cast<size_t>(SIGRTMAX) + 1) {
    for (size_t i = 1; i < before_.size(); ++i) before_[i].known = sigaction(static_cast<int>(i), nullptr, &before_[i].action) == 0;
  }
  ~KeptSignalHandlers() {
    for (size_t i = 1; i < before_.size(); ++i) {
      struct sigaction now {};
      const int number = static_cast<int>(i);
      if (!before_[i].known || sigaction(number, nullptr, &now) != 0) continue;
      if (now.sa_sigaction != before_[i].action.sa_sigaction) (void)sigaction(number, &before_[i].action, nullptr);
    }
  }
  KeptSignalHandlers(const KeptSignalHandlers&) = delete;
  KeptSignalHandlers& operator=(const KeptSignalHandlers&) = delete;

 private:
  struct Before {
    struct sigaction action {};
    bool known = false;
  };
  std::vector<Before> before_;
};

absl::StatusOr<RdmaReader*> Load() {
  const KeptSignalHandlers kept;
  const absl::StatusOr<void*> symbol = LoadFromOwnLibrary("libpenstock_rdma.so", "penstock_open_rdma");
  if (!symbol.ok()) return symbol.status();
  RdmaReader* reader = nullptr;
  std::string why;
  const int code = reinterpret_cast<decltype(&penstock_open_rdma)>(*symbol)(&reader, &why);
  if (code != 0) return absl::Status(static_cast<absl::StatusCode>(code), why);
  return reader;
}

}  // namespace

class OwnRdma::Registration {
 public:
  explicit Registration(std::shared_ptr<const void> memory) : memory_(std::move(memory)) {}
  ~Registration() {
    OwnRdma& rdma = Get();
    std::lock_guard<std::mutex> lock(rdma.mutex_);
    if (rdma.InForkedChild()) {
      new std::shared_ptr<const void>(std::move(memory_));  // the parent's
    } else {
      rdma.registered_.erase(this);
    }
  }
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

 private:
  std::shared_ptr<const void> memory_;
};

OwnRdma& OwnRdma::Get() {
  static OwnRdma* const rdma = [] {
    auto* made = new OwnRdma;
    ForkList::AddMutex(&made->mutex_);
    return made;
  }();
  return *rdma;
}

bool OwnRdma::InForkedChild() const { return opened_ && opened_in_ != ForkList::fork_count(); }

bool OwnRdma::MayBeUsed() {
  std::lock_guard<std::mutex> lock(mutex_);
  return !opened_ || (!InForkedChild() && reader_.ok());
}

absl::StatusOr<RdmaReader*> OwnRdma::OpenOnce() {
  if (InForkedChild()) return absl::FailedPreconditionError("RDMA: this process was forked from one that had begun to use it; UCX cannot be used here");
  if (opened_) return reader_;
  opened_in_ = ForkList::fork_count();
  opened_ = true;  // first: a child that is forked meanwhile must not begin anew
  reader_ = Load();
  return reader_;
}

absl::StatusOr<RdmaReader*> OwnRdma::Reader(const std::string& version) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::StatusOr<RdmaReader*> reader = OpenOnce();
  if (!reader.ok() || version.empty() || (*reader)->version() == version) return reader;
  return absl::FailedPreconditionError(StrCat("RDMA: UCX ", (*reader)->version(), " in this process, ", version, " at the other node"));
}

void OwnRdma::BeforeFork() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (opened_ && !InForkedChild() && reader_.ok()) (*reader_)->LeaveMemoryToChild();
}

absl::StatusOr<std::shared_ptr<const void>> OwnRdma::Hold(absl::Span<char> memory) {
  const absl::StatusOr<RdmaReader*> reader = Reader("");
  if (!reader.ok()) return reader.status();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [registration, covering] : registered_) {
      if (memory.begin() < covering.memory.begin() || memory.end() > covering.memory.end()) continue;
      if (std::shared_ptr<const void> held = covering.registration.lock()) return held;
    }
  }
  return (*reader)->Register(memory);
}

absl::StatusOr<std::shared_ptr<const void>> OwnRdma::Register(absl::Span<char> memory) {
  const absl::StatusOr<RdmaReader*> reader = Reader("");
  if (!reader.ok()) return reader.status();
  absl::StatusOr<std::shared_ptr<const void>> registered = (*reader)->Register(memory);
  if (!registered.ok()) return registered;
  const auto registration = std::make_shared<const Registration>(*std::move(registered));
  std::lock_guard<std::mutex> lock(mutex_);
  registered_.emplace(registration.get(), Covering{memory, registration});
  return registration;
}

}  // namespace penstock::client
