#include "transport/ucx/rdma_reader.h"

#include <utility>

#include "transport/ucx/forkable_memory.h"
#include "transport/ucx/rdma_lane.h"
#include "transport/ucx/rdma_target.h"
#include "transport/ucx/ucp_memory.h"

namespace penstock {

namespace {

class UcxReader final : public RdmaReader {
 public:
  explicit UcxReader(std::shared_ptr<ucx::UcpContext> context) : context_(std::move(context)) {}

  std::string version() const override { return UcxVersion(); }

  absl::StatusOr<std::shared_ptr<Lane>> NewLane(std::string worker, std::shared_ptr<GrantedBlocks> blocks) override {
    absl::StatusOr<std::unique_ptr<RdmaLane>> lane =
        RdmaLane::Create(context_, {.peer = [worker = std::move(worker)] { return worker; },
                                    .locate = [blocks = std::move(blocks)](uint64_t grant, TransferKind kind) { return blocks->Find(grant, kind); }});
    if (!lane.ok()) return lane.status();
    return std::shared_ptr<Lane>(*std::move(lane));
  }

  absl::StatusOr<std::shared_ptr<const void>> Register(absl::Span<char> memory) override {
    absl::StatusOr<std::unique_ptr<ucx::UcpMemory>> registered = ucx::UcpMemory::Register(context_, memory.data(), memory.size());
    if (!registered.ok()) return registered.status();
    forkable_.Add(memory);
    return std::shared_ptr<const void>(*std::move(registered));
  }

  void LeaveMemoryToChild() override { forkable_.LeaveToChild(); }

 private:
  const std::shared_ptr<ucx::UcpContext> context_;
  ucx::ForkableMemory forkable_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RdmaReader>> OpenRdmaReader() {
  absl::StatusOr<std::shared_ptr<ucx::UcpContext>> context = OpenRdma(RdmaEnd::kReader);
  if (!context.ok()) return context.status();
  return std::unique_ptr<RdmaReader>(std::make_unique<UcxReader>(*std::move(context)));
}

}  // namespace penstock
