// The members of a plain struct, without naming them: a member that somebody adds later is seen, too.
//
//   VisitFields([](auto& field) { ... }, value);            VisitFields([](auto& a, auto& b) { ... }, left, right);
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>

namespace penstock::testing_fields {

struct Anything {
  template <class T>
  operator T() const;
};

template <class T, size_t... I>
constexpr bool CanBeMadeOf(std::index_sequence<I...>) {
  return requires { T{((void)I, Anything())...}; };
}

// How many members an aggregate has: the most that it can be initialized with.
template <class T, size_t N = 0>
constexpr size_t FieldCount() {
  if constexpr (CanBeMadeOf<T>(std::make_index_sequence<N + 1>())) {
    return FieldCount<T, N + 1>();
  } else {
    return N;
  }
}

template <class T>
auto TieFields(T& value) {
  constexpr size_t kCount = FieldCount<std::remove_const_t<T>>();
  static_assert(kCount >= 1 && kCount <= 12, "one more case is needed here");
  if constexpr (kCount == 1) {
    auto& [a] = value;
    return std::tie(a);
  } else if constexpr (kCount == 2) {
    auto& [a, b] = value;
    return std::tie(a, b);
  } else if constexpr (kCount == 3) {
    auto& [a, b, c] = value;
    return std::tie(a, b, c);
  } else if constexpr (kCount == 4) {
    auto& [a, b, c, d] = value;
    return std::tie(a, b, c, d);
  } else if constexpr (kCount == 5) {
    auto& [a, b, c, d, e] = value;
    return std::tie(a, b, c, d, e);
  } else if constexpr (kCount == 6) {
    auto& [a, b, c, d, e, f] = value;
    return std::tie(a, b, c, d, e, f);
  } else if constexpr (kCount == 7) {
    auto& [a, b, c, d, e, f, g] = value;
    return std::tie(a, b, c, d, e, f, g);
  } else if constexpr (kCount == 8) {
    auto& [a, b, c, d, e, f, g, h] = value;
    return std::tie(a, b, c, d, e, f, g, h);
  } else if constexpr (kCount == 9) {
    auto& [a, b, c, d, e, f, g, h, i] = value;
    return std::tie(a, b, c, d, e, f, g, h, i);
  } else if constexpr (kCount == 10) {
    auto& [a, b, c, d, e, f, g, h, i, j] = value;
    return std::tie(a, b, c, d, e, f, g, h, i, j);
  } else if constexpr (kCount == 11) {
    auto& [a, b, c, d, e, f, g, h, i, j, k] = value;
    return std::tie(a, b, c, d, e, f, g, h, i, j, k);
  } else {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l] = value;
    return std::tie(a, b, c, d, e, f, g, h, i, j, k, l);
  }
}

template <class Visit, class T>
void VisitFields(Visit visit, T& value) {
  std::apply([&](auto&... fields) { (visit(fields), ...); }, TieFields(value));
}

template <class Visit, class T>
void VisitFields(Visit visit, const T& left, const T& right) {
  const auto a = TieFields(left), b = TieFields(right);
  [&]<size_t... I>(std::index_sequence<I...>) {
    (visit(std::get<I>(a), std::get<I>(b)), ...);
  }(std::make_index_sequence<std::tuple_size_v<decltype(a)>>());
}

}  // namespace penstock::testing_fields
