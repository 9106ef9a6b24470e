// An exhaustive search over the directory protocol with messages: one name, all orders of all that can happen.
//
//   directory [--ops=2] [--faults=2] [--terms=3] [--holders=6] [--loss] [--tombstones_go] [--without=RULE] [--trace] [--states=N]
//
// Breadth first, so the trace of a violation is a shortest one. States are remembered by a hash of 64 bits (as spin's
// hash-compact does): of 10 million states two are taken for one with a probability of 3 in a million.
// Last line: "errors: 0 in N states" or "errors: 1 (WHAT) in N states"; "not complete: ..." if the bound was reached.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "tests/model/directory/monitor.h"
#include "tests/model/directory/protocol.h"

namespace model {

bool* RuleNamed(Rules& r, const std::string& name) {
  const std::pair<const char*, bool*> all[] = {
      {"promise", &r.promise}, {"backup", &r.backup}, {"supersede", &r.supersede}, {"conditional", &r.conditional},
      {"lease", &r.lease}, {"tombstone", &r.tombstone}, {"confirm", &r.confirm}, {"epoch", &r.epoch},
      {"commit_lease", &r.commit_lease}, {"order", &r.order}, {"sure_holdings", &r.sure_holdings}, {"listed", &r.listed},
      {"once", &r.once}, {"since", &r.since},
      {"new_epoch", &r.new_epoch}, {"announce_history", &r.announce_history}};
  for (const auto& [known, rule] : all) {
    if (name == known) return rule;
  }
  return nullptr;
}

namespace {

constexpr std::size_t kBytes = offsetof(State, messages) + sizeof(State::messages);

std::uint64_t HashOf(const State& s) {
  std::uint64_t hash = 0x9E3779B97F4A7C15ULL;
  std::uint64_t word = 0;
  const char* bytes = reinterpret_cast<const char*>(&s);
  for (std::size_t i = 0; i < kBytes; i += sizeof word) {
    std::memcpy(&word, bytes + i, std::min(sizeof word, kBytes - i));
    const auto product = static_cast<unsigned __int128>(hash ^ word) * 0xD6E8FEB86659FD93ULL;
    hash = static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64) ^ (hash << 1);
  }
  return hash | 1;  // 0 is an empty slot
}

// Open addressing, doubled when it is two thirds full.
class HashSet {
 public:
  bool Insert(std::uint64_t hash) {
    if (count_ * 3 >= slots_.size() * 2) Grow();
    if (!Put(hash)) return false;
    ++count_;
    return true;
  }
  std::size_t size() const { return count_; }

 private:
  bool Put(std::uint64_t hash) {
    std::size_t at = (hash >> 1) & (slots_.size() - 1);
    for (; slots_[at] != 0; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at] == hash) return false;
    }
    slots_[at] = hash;
    return true;
  }
  void Grow() {
    std::vector<std::uint64_t> old(slots_.size() * 2);
    old.swap(slots_);
    for (const std::uint64_t hash : old) {
      if (hash != 0) Put(hash);
    }
  }

  std::vector<std::uint64_t> slots_ = std::vector<std::uint64_t>(1 << 16);
  std::size_t count_ = 0;
};

struct Parent {
  std::uint32_t parent;
  std::uint32_t nth;  // of its successors
};

State First(const Bounds& bounds) {
  State s;
  s.members[1] = (1 << kNodes) - 1;
  const Byte version = Version(1, 1);
  s.seen_version = s.committed = version;
  s.operations[0].outcome = kAcknowledged;
  s.operations[0].version = s.operations[0].shown = version;
  for (int n = 0; n < kNodes; ++n) {
    Node& node = s.nodes[n];
    if (n < 2) {
      node.entry = {version, 0, static_cast<Byte>(bounds.holders), 0};
      node.complete = 1;
    }
    if (Has(bounds.holders, n)) node.version = version;
  }
  s.nodes[0].phase = kActive;
  return s;
}

// Every operation has ended and the name is served, unless the bound on views is what is in the way.
void CheckEnded(State& s, const Bounds& bounds) {
  if (s.view >= bounds.terms) return;
  for (int op = 1; op <= s.ops; ++op) {
    if (s.operations[op].outcome == kPending) Wrong(s, "nothing more happens, and an operation has not ended");
  }
  const Node& home = s.nodes[HomeOf(s, s.view)];
  if (home.up && home.phase != kActive) Wrong(s, "nothing more happens, and home does not serve");
}

class Search {
 public:
  Search(const Rules& rules, const Bounds& bounds, bool trace) : rules_(rules), bounds_(bounds), trace_(trace) {}

  int Run() {
    frontier_ = {First(bounds_)};
    seen_.Insert(HashOf(frontier_[0]));
    if (trace_) parents_.push_back({0, 0});
    std::uint32_t base = 0;
    int depth = 0;
    while (!frontier_.empty()) {
      ++depth;
      next_.clear();
      for (std::uint32_t i = 0; i < frontier_.size(); ++i) {
        if (ExpandOne(frontier_[i], base + i)) return Report();
      }
      base += static_cast<std::uint32_t>(frontier_.size());
      frontier_.swap(next_);
      if (seen_.size() > bounds_.states) {
        std::printf("not complete: %zu states, depth %d\n", seen_.size(), depth);
        return 2;
      }
    }
    std::printf("errors: 0 in %zu states, depth %d\n", seen_.size(), depth);
    return 0;
  }

 private:
  bool ExpandOne(const State& s, std::uint32_t id) {
    std::uint32_t nth = 0;
    Successors out{rules_, bounds_, false, 0, {}};
    out.emit = [&](const std::string&, const State& next) {
      ++nth;
      if (found_ || !seen_.Insert(HashOf(next))) return;
      next_.push_back(next);
      if (trace_) parents_.push_back({id, nth});
      if (next.wrong != nullptr) Found(next, static_cast<std::uint32_t>(parents_.size() - 1));
    };
    Expand(out, s);
    if (found_ || out.progress > 0) return found_;
    State ended = s;
    CheckEnded(ended, bounds_);
    if (ended.wrong != nullptr) Found(ended, id);
    return found_;
  }

  void Found(const State& s, std::uint32_t id) {
    found_ = true;
    wrong_ = s;
    wrong_id_ = id;
  }

  int Report() {
    if (trace_) {
      std::vector<std::uint32_t> path;
      for (std::uint32_t id = wrong_id_; id != 0; id = parents_[id].parent) path.push_back(parents_[id].nth);
      State s = First(bounds_);
      for (std::size_t i = path.size(); i-- > 0;) {
        std::uint32_t nth = 0;
        State chosen;
        Successors out{rules_, bounds_, true, 0, {}};
        out.emit = [&](const std::string& what, const State& next) {
          if (++nth != path[i]) return;
          std::printf("%2zu. %s\n", path.size() - i, what.c_str());
          chosen = next;
        };
        Expand(out, s);
        s = chosen;
      }
      std::printf("%s", Tell(wrong_).c_str());
    }
    std::printf("errors: 1 (%s) in %zu states\n", wrong_.wrong, seen_.size());
    return 1;
  }

  const Rules rules_;
  const Bounds bounds_;
  const bool trace_;
  HashSet seen_;
  std::vector<State> frontier_, next_;
  std::vector<Parent> parents_;
  bool found_ = false;
  State wrong_;
  std::uint32_t wrong_id_ = 0;
};

int Main(int argc, char** argv) {
  Rules rules;
  Bounds bounds;
  bool trace = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const std::size_t equals = word.find('=');
    const std::string_view flag = word.substr(0, equals);
    const std::string value(equals == std::string_view::npos ? "" : word.substr(equals + 1));
    const auto number = [&] { return std::atoi(value.c_str()); };
    bool* rule = nullptr;
    if (flag == "--ops") bounds.ops = std::min(number(), kOps);
    else if (flag == "--faults") bounds.faults = number();
    else if (flag == "--terms") bounds.terms = std::min(number(), kTerms);
    else if (flag == "--holders") bounds.holders = number();
    else if (flag == "--states") bounds.states = std::strtoul(value.c_str(), nullptr, 10);
    else if (flag == "--loss") bounds.loss = true;
    else if (flag == "--tombstones_go") bounds.tombstones_go = true;
    else if (flag == "--trace") trace = true;
    else if (flag == "--without" && (rule = RuleNamed(rules, value)) != nullptr) *rule = false;
    else {
      std::fprintf(stderr, "unknown: %s\n", argv[i]);
      return 64;
    }
  }
  return Search(rules, bounds, trace).Run();
}

}  // namespace
}  // namespace model

int main(int argc, char** argv) { return model::Main(argc, argv); }
