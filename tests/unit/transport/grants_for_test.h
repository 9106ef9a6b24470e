// GrantsForTest: a GrantTable of plain memory that counts its uses.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "transport/lane/lane.h"
#include "transport/stream/tls.h"

namespace penstock {

class GrantsForTest final : public GrantTable {
 public:
  static LaneToken Token(uint8_t fill) {
    LaneToken token;
    token.fill(fill);
    return token;
  }

  // A block that the token's holder may read, and write if so said. Returns the grant.
  uint64_t Add(const LaneToken& token, std::vector<char> bytes, bool writable = false) {
    std::lock_guard lock(mutex_);
    blocks_[++last_] = {token, std::make_shared<std::vector<char>>(std::move(bytes)), writable};
    return last_;
  }
  // A block that is still being filled, kept by `growing`.
  uint64_t AddGrowing(const LaneToken& token, char* data, uint64_t bytes, std::shared_ptr<GrowingBlock> growing) {
    std::lock_guard lock(mutex_);
    growing_[++last_] = {token, data, bytes, std::move(growing)};
    return last_;
  }
  // A channel that the token's holder may follow. Returns the grant.
  uint64_t AddSteps(const LaneToken& token, std::shared_ptr<StepSource> steps) {
    std::lock_guard lock(mutex_);
    channels_[++last_] = {token, std::move(steps)};
    return last_;
  }
  void AddToken(const LaneToken& token) {
    std::lock_guard lock(mutex_);
    tokens_.push_back(token);
  }
  void Revoke(uint64_t grant) {
    std::lock_guard lock(mutex_);
    blocks_.erase(grant);
  }
  void ForgetToken(const LaneToken& token) {
    std::lock_guard lock(mutex_);
    std::erase(tokens_, token);
  }
  std::vector<char> Bytes(uint64_t grant) {
    std::lock_guard lock(mutex_);
    return *blocks_.at(grant).bytes;
  }
  // How often Use was called.
  int asked() {
    std::lock_guard lock(mutex_);
    return asked_;
  }
  // Transfers that use a block now.
  int uses() {
    std::lock_guard lock(mutex_);
    long uses = 0;
    for (const auto& [grant, block] : blocks_) uses += block.bytes.use_count() - 1;
    return static_cast<int>(uses);
  }

  bool KnowsToken(const LaneToken& token) override {
    std::lock_guard lock(mutex_);
    return std::find(tokens_.begin(), tokens_.end(), token) != tokens_.end();
  }
  std::optional<LaneToken> TokenOf(const TlsIdentity& identity) override {
    std::lock_guard lock(mutex_);
    for (const LaneToken& token : tokens_) {
      if (stream::TlsKeyOf(token).identity == identity) return token;
    }
    return std::nullopt;
  }
  absl::StatusOr<GrantedBlock> Use(const LaneToken& token, uint64_t grant, TransferKind kind) override {
    std::lock_guard lock(mutex_);
    ++asked_;
    if (auto growing = growing_.find(grant); growing != growing_.end() && growing->second.token == token && kind == TransferKind::kRead) {
      const Growing& found = growing->second;
      return GrantedBlock{.data = found.data, .bytes = found.bytes, .hold = found.block, .growing = found.block.get()};
    }
    auto it = blocks_.find(grant);
    if (it == blocks_.end() || it->second.token != token || (kind == TransferKind::kWrite && !it->second.writable)) {
      return absl::PermissionDeniedError("grant: not known, or not for this");
    }
    return GrantedBlock{it->second.bytes->data(), it->second.bytes->size(), it->second.bytes};
  }
  absl::StatusOr<std::shared_ptr<StepSource>> Follow(const LaneToken& token, uint64_t grant) override {
    std::lock_guard lock(mutex_);
    auto it = channels_.find(grant);
    if (it == channels_.end() || it->second.first != token) return absl::PermissionDeniedError("grant: not known");
    return it->second.second;
  }

 private:
  struct Block {
    LaneToken token;
    std::shared_ptr<std::vector<char>> bytes;
    bool writable;
  };
  std::mutex mutex_;
  uint64_t last_ = 0;
  int asked_ = 0;
  struct Growing {
    LaneToken token;
    char* data;
    uint64_t bytes;
    std::shared_ptr<GrowingBlock> block;
  };
  std::map<uint64_t, Block> blocks_;
  std::map<uint64_t, Growing> growing_;
  std::map<uint64_t, std::pair<LaneToken, std::shared_ptr<StepSource>>> channels_;
  std::vector<LaneToken> tokens_;
};

}  // namespace penstock
