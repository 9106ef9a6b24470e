#include "tests/unit/server/directory/history.h"

#include <algorithm>
#include <optional>
#include <unordered_set>

#include "absl/strings/str_format.h"

namespace penstock::server::directory {
namespace {

// The state of a name is the value there, 0 for none. The state after `call`, or nullopt if it cannot happen in `state`.
std::optional<uint64_t> Apply(const Call& call, uint64_t state) {
  switch (call.kind) {
    case CallKind::kGet:
      if (state != (call.result == CallResult::kAbsent ? 0 : call.value)) return std::nullopt;
      return state;
    case CallKind::kDelete:
      if (call.result == CallResult::kAbsent) return state == 0 ? std::optional<uint64_t>(0) : std::nullopt;
      if (call.result == CallResult::kDone && state == 0) return std::nullopt;
      return 0;
    case CallKind::kForget:
      if (call.value != 0 && state != call.value) return std::nullopt;
      return 0;
    case CallKind::kPut: {
      const bool holds = !(call.if_absent && state != 0) && !(call.if_value != 0 && state != call.if_value);
      if (call.result == CallResult::kConflict) return holds ? std::nullopt : std::optional<uint64_t>(state);
      if (!holds) return std::nullopt;
      return call.value;
    }
  }
  return std::nullopt;
}

class Search {
 public:
  Search(std::vector<Call> calls, size_t max_states) : calls_(std::move(calls)), left_(max_states) {
    std::stable_sort(calls_.begin(), calls_.end(), [](const Call& a, const Call& b) { return a.begin < b.begin; });
    done_.resize(calls_.size());
    must_ = std::count_if(calls_.begin(), calls_.end(), [](const Call& c) { return c.end != kForever; });
  }

  HistoryVerdict Run() {
    if (From(0, 0)) return HistoryVerdict::kRight;
    return left_ == 0 ? HistoryVerdict::kUndecided : HistoryVerdict::kWrong;
  }

 private:
  bool From(uint64_t state, size_t finished) {
    if (finished == must_) return true;
    if (left_ == 0) return false;
    --left_;
    if (!seen_.insert(Key(state)).second) return false;
    Time first_end = kForever;
    for (size_t i = 0; i < calls_.size(); ++i) {
      if (!done_[i]) first_end = std::min(first_end, calls_[i].end);
    }
    for (size_t i = 0; i < calls_.size() && calls_[i].begin <= first_end; ++i) {
      if (done_[i]) continue;
      const auto next = Apply(calls_[i], state);
      if (!next) continue;
      const bool ended = calls_[i].end != kForever;
      if (!ended && *next == state) continue;  // of no consequence
      done_[i] = true;
      if (From(*next, finished + ended)) return true;
      done_[i] = false;
    }
    return false;
  }
  std::string Key(uint64_t state) const {
    std::string key(reinterpret_cast<const char*>(&state), sizeof state);
    for (size_t i = 0; i < done_.size(); i += 8) {
      char bits = 0;
      for (size_t j = i; j < std::min(i + 8, done_.size()); ++j) bits = static_cast<char>(bits << 1 | done_[j]);
      key += bits;
    }
    return key;
  }

  std::vector<Call> calls_;
  std::vector<bool> done_;
  size_t must_ = 0;
  size_t left_;
  std::unordered_set<std::string> seen_;
};

}  // namespace

std::string Call::Text() const {
  static constexpr const char* kKinds[] = {"put", "delete", "get", "forget"};
  static constexpr const char* kResults[] = {"unknown", "done", "absent", "conflict"};
  return absl::StrFormat("%9.3f-%-9.3f %-6s %-8s value=%d%s%s version=(%d,%d)", double(begin) / kSecond,
                         end == kForever ? -1.0 : double(end) / kSecond, kKinds[int(kind)], kResults[int(result)], value,
                         if_absent ? " if_absent" : "", if_value ? absl::StrFormat(" if=%d", if_value) : "",
                         version.term, version.number);
}

HistoryVerdict CheckLinearizable(const std::vector<Call>& calls, size_t max_states) {
  return Search(calls, max_states).Run();
}

std::string CheckVersions(const std::vector<Call>& calls) {
  for (const Call& a : calls) {
    if (a.kind != CallKind::kPut || a.result != CallResult::kDone) continue;
    for (const Call& b : calls) {
      if (b.kind != CallKind::kPut || b.result != CallResult::kDone || b.begin <= a.end) continue;
      if (b.version.number <= a.version.number) return "version does not grow:\n" + a.Text() + "\n" + b.Text();
    }
  }
  return {};
}

}  // namespace penstock::server::directory
