#include "transport/ucx/rdma_target.h"

#include <cstdlib>
#include <optional>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "transport/ucx/ucp_memory.h"
#include "transport/ucx/ucp_worker.h"

namespace penstock {

using ucx::UcpContext;
using ucx::UcpMemory;
using ucx::UcpWorker;

namespace {

constexpr char kRdmaTransports[] = "rc";
// A connect is given up by the lane, never by UCX: 1.13 ends the process with an assertion when it gives up itself, after 30 s.
// An owner keeps UCX's own time: what is left of readers that died goes by it.
// A reader's own buffers lie outside malloc's heap: UCX takes what it registers out of forked children (MADV_DONTFORK), whole huge
// pages of it, and what they shared the heap with would be missing there.
constexpr UcpContext::Setting kReaderSettings[] = {{"UD_TIMEOUT", "100000m", false}, {"RC_ALLOC", "mmap", true}, {"UD_ALLOC", "mmap", true}};
// UCX has two caches of registrations, UCP's own and the device's. They keep what was unregistered for the next one who registers
// it, and give one key to all that overlaps: with them nothing could be taken back. An owner registers seldom, and has neither.
constexpr UcpContext::Setting kOwnerSettings[] = {{"RCACHE_ENABLE", "n", true}};
constexpr char kDeviceCache[] = "UCX_IB_REG_METHODS";  // ucp_config_modify does not reach the device's settings (1.13)

// A variable of the environment, for as long as this lives.
class WithVariable {
 public:
  WithVariable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    (void)setenv(name, value, 1);
  }
  ~WithVariable() { (void)(before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_)); }

 private:
  const char* const name_;
  std::optional<std::string> before_;
};

constexpr char kDevices[] = "/sys/class/infiniband";
constexpr absl::Duration kPoll = absl::Milliseconds(50);  // a connect waits so long when its wake-up is lost

bool IsRdma(absl::string_view transport) {
  return absl::StartsWith(transport, "rc") || absl::StartsWith(transport, "dc") || absl::StartsWith(transport, "ud") || transport == "ib" ||
         transport == "self";
}

// What the operator chose, if it names RDMA transports and nothing else: tcp would open the process to everybody.
std::string Transports() {
  const char* chosen = std::getenv("UCX_TLS");
  if (chosen == nullptr) return kRdmaTransports;
  for (absl::string_view one : absl::StrSplit(chosen, ',')) {
    if (!IsRdma(one)) return kRdmaTransports;
  }
  return chosen;
}

}  // namespace

absl::StatusOr<std::shared_ptr<UcpContext>> OpenRdma(RdmaEnd end) {
  std::error_code none;
  if (std::filesystem::directory_iterator(kDevices, none) == std::filesystem::directory_iterator()) {
    // UCX would say so too, but in four lines on stderr.
    return absl::NotFoundError(absl::StrCat("no RDMA device: ", kDevices, " is empty or not there"));
  }
  if (end == RdmaEnd::kReader) return UcpContext::Open(Transports(), kReaderSettings);
  const WithVariable direct(kDeviceCache, "direct");
  return UcpContext::Open(Transports(), kOwnerSettings);
}
absl::StatusOr<std::shared_ptr<UcpContext>> OpenUcxForTest(const std::string& tls) { return UcpContext::Open(tls); }
std::string UcxVersion() { return ucp_get_version_string(); }

absl::StatusOr<std::unique_ptr<RdmaTarget>> RdmaTarget::Start(std::shared_ptr<UcpContext> context) {
  absl::StatusOr<std::unique_ptr<UcpWorker>> worker = UcpWorker::Create(context);
  if (!worker.ok()) return worker.status();
  absl::StatusOr<std::string> address = (*worker)->Address();
  if (!address.ok()) return address.status();
  std::unique_ptr<RdmaTarget> target(new RdmaTarget(std::move(context), *std::move(worker), *std::move(address)));
  target->takes_back_ = target->KeysDiffer();
  return target;
}

RdmaTarget::RdmaTarget(std::shared_ptr<UcpContext> context, std::unique_ptr<UcpWorker> worker, std::string address)
    : context_(std::move(context)), worker_(std::move(worker)), address_(std::move(address)), thread_([this] { Serve(); }) {}

RdmaTarget::~RdmaTarget() {
  stopping_.store(true);
  worker_->Signal();
  thread_.join();
}

bool RdmaTarget::KeysDiffer() {
  constexpr size_t kProbeBytes = 8192;
  const std::unique_ptr<char[]> memory(new char[kProbeBytes]);
  const absl::StatusOr<Registration> whole = Register(memory.get(), kProbeBytes), part = Register(memory.get(), kProbeBytes / 2);
  return whole.ok() && part.ok() && whole->key != part->key;
}

void RdmaTarget::Serve() {
  while (!stopping_.load()) {
    while (worker_->Progress()) {
    }
    if (worker_->Arm()) worker_->Wait(kPoll);
  }
}

absl::StatusOr<RdmaTarget::Registration> RdmaTarget::Register(void* address, size_t bytes) {
  absl::StatusOr<std::unique_ptr<UcpMemory>> memory = UcpMemory::Register(context_, address, bytes);
  if (!memory.ok()) return memory.status();
  std::string key = (*memory)->key();
  return Registration{std::move(key), std::shared_ptr<const UcpMemory>(*std::move(memory))};
}

}  // namespace penstock
