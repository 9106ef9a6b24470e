// Messages with something in every field, and whether two are the same in every field. Kinds and fields are found by
// struct_fields.h, so what is added to directory_messages.h is tested without a word here.
#pragma once

#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "server/directory/directory_messages.h"
#include "server/directory/view.h"
#include "tests/unit/server/directory_link/struct_fields.h"

namespace penstock::server::directory {

constexpr uint32_t kTestPartitions = 8;

template <class T>
constexpr bool kIsList = false;
template <class T>
constexpr bool kIsList<std::vector<T>> = true;
template <class T, size_t N>
constexpr bool kIsList<absl::InlinedVector<T, N>> = true;

template <class Enum>
constexpr int kLastOf = -1;
template <>
inline constexpr int kLastOf<Outcome> = static_cast<int>(Outcome::kElsewhere);
template <>
inline constexpr int kLastOf<VerdictKind> = static_cast<int>(VerdictKind::kElsewhere);
template <>
inline constexpr int kLastOf<LookupStatus> = static_cast<int>(LookupStatus::kElsewhere);
template <>
inline constexpr int kLastOf<RecordState> = static_cast<int>(RecordState::kQuarantined);
template <>
inline constexpr int kLastOf<MoveOutcome> = static_cast<int>(MoveOutcome::kElsewhere);

class RandomMessages {
 public:
  explicit RandomMessages(uint64_t seed) : random_(seed) {}

  template <class Kind>
  Kind Make() {
    Kind message;
    Fill(message);
    return message;
  }

  std::string Name() { return "t/" + std::to_string(random_()); }
  std::string NameIn(Partition partition) {
    while (true) {
      std::string name = Name();
      if (PartitionOf(name, kTestPartitions) == partition) return name;
    }
  }

 private:
  uint64_t Below(uint64_t end) { return random_() % end; }

  // Any bytes: the store's, opaque here.
  std::string Info() {
    std::string info(Below(40), '\0');
    for (char& c : info) c = static_cast<char>(random_());
    return info;
  }

  template <class T>
  void Fill(T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      value = Below(2) == 1;
    } else if constexpr (std::is_enum_v<T>) {
      static_assert(kLastOf<T> >= 0);
      value = static_cast<T>(Below(kLastOf<T> + 1));
    } else if constexpr (std::is_same_v<T, Partition>) {  // also an index or a chunk: any number
      value = static_cast<uint32_t>(random_());
    } else if constexpr (std::is_integral_v<T>) {
      value = static_cast<T>(1 + Below(std::numeric_limits<T>::max()));
    } else if constexpr (std::is_same_v<T, std::string>) {
      value = Name();
    } else if constexpr (kIsList<T>) {
      value.resize(Below(4));
      for (auto& item : value) Fill(item);
    } else {
      testing_fields::VisitFields([this](auto& field) { this->Fill(field); }, value);
      Settle(value);
    }
  }

  // And some reasons.
  void SetText(Entry* entry, const std::string& name) {
    entry->SetText(name, Info());
    std::vector<Reason> reasons(Below(entry->holders.size() + 1));
    for (Reason& reason : reasons) reason = static_cast<Reason>(Below(kMostReason + 1));
    entry->SetReasons(reasons);
  }

  // What goes together.
  template <class T>
  void Settle(T& value) {
    if constexpr (std::is_same_v<T, Entry>) {
      SetText(&value, Name());
    } else {
      if constexpr (requires { value.busy_percent; }) value.busy_percent %= 101;
      if constexpr (requires { value.reason; }) value.reason &= kMostReason;
      if constexpr (requires { value.reasons; value.holders; }) {
        value.reasons.resize(Below(value.holders.size() + 1));
        for (Reason& reason : value.reasons) reason = Below(kMostReason + 1);
      }
      if constexpr (requires { value.info = std::string(); }) value.info = Info();
      if constexpr (requires { value.partition; }) value.partition %= kTestPartitions;
      if constexpr (requires { value.partitions; }) {
        for (Partition& p : value.partitions) p %= kTestPartitions;
      }
      if constexpr (requires { value.partition; value.name; }) value.partition = PartitionOf(value.name, kTestPartitions);
      if constexpr (requires { value.partition; value.entry; }) value.partition = PartitionOf(value.entry.name(), kTestPartitions);
      if constexpr (requires { value.entries; }) {
        for (Entry& entry : value.entries) SetText(&entry, NameIn(value.partition));
      }
      if constexpr (requires { value.records; }) {
        for (HeldRecord& record : value.records) record.name = NameIn(value.partition);
      }
    }
  }

  std::mt19937_64 random_;
};

template <class T>
bool Same(const T& left, const T& right) {
  if constexpr (kIsList<T>) {
    if (left.size() != right.size()) return false;
    for (size_t i = 0; i < left.size(); ++i) {
      if (!Same(left[i], right[i])) return false;
    }
    return true;
  } else if constexpr (std::is_scalar_v<T> || std::is_same_v<T, std::string>) {
    return left == right;
  } else {
    bool same = true;
    testing_fields::VisitFields([&](const auto& a, const auto& b) { same = same && Same(a, b); }, left, right);
    return same;
  }
}

inline bool SameMessage(const Message& left, const Message& right) {
  return left.index() == right.index() && std::visit([&](const auto& kind) { return Same(kind, std::get<std::decay_t<decltype(kind)>>(right)); }, left);
}

// Calls visit.operator()<Kind>() for each kind of Message.
template <class Visit>
void ForEachKind(Visit visit) {
  [&]<size_t... I>(std::index_sequence<I...>) {
    (visit.template operator()<std::variant_alternative_t<I, Message>>(), ...);
  }(std::make_index_sequence<std::variant_size_v<Message>>());
}

}  // namespace penstock::server::directory
