// ChannelSource: a channel of this node, for one node elsewhere that follows it on the data port.
//
// Looks at the channel's memory as a reader does, and takes no word of it on trust: its writer is a client.
//
// Threading:  any thread; `copy` is whose who has claimed it
// Ownership:  keeps the channel's memory, and room for one copy of a step in the node's books, until it goes
// Errors:     none
// Limits:     one connection at a time (Claim)
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "transport/lane/lane.h"

namespace penstock::server {

class ChannelSource final : public StepSource {
 public:
  struct Where {
    const void* memory = nullptr;  // channel_layout.h
    uint64_t nbytes = 0;
    uint32_t slots = 0;
  };
  ChannelSource(const Where& where, std::function<void()> end) : where_(where), end_(std::move(end)) {}
  ~ChannelSource() override { end_(); }
  ChannelSource(const ChannelSource&) = delete;
  ChannelSource& operator=(const ChannelSource&) = delete;

  // Its grant was given back: who still has it is told so.
  void Release() { released_.store(true); }

  uint64_t nbytes() const override { return where_.nbytes; }
  bool Claim() override { return !claimed_.exchange(true); }
  void Unclaim() override { claimed_.store(false); }
  // As long as no step was lost they are given in their order; else the newest one: who is too slow for all is not kept behind.
  Next After(uint64_t seq) const override;
  const char* data(uint64_t seq) const override;
  bool IsWhole(uint64_t seq) const override;
  char* copy() override;

 private:
  const Where where_;
  const std::function<void()> end_;
  std::atomic<bool> claimed_{false};
  std::atomic<bool> released_{false};
  std::unique_ptr<char[]> copy_;  // made when it is needed
};

}  // namespace penstock::server
