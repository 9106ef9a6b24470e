// Text from pieces: StrCat("rank ", 17, " is above ", kMaxRank).
//
// absl::StrCat of Debian 12 takes absl::string_view, which is another type than std::string_view,
// so that code in the standard's words cannot call it. This one takes what our messages are made
// of.
//
// Threading:  any thread; no state.
// Ownership:  copies what it is given.
// Errors:     none.
// Limits:     for messages and names, not for hot paths: one allocation or more a call.
#ifndef PENSTOCK_PROTO_STRCAT_H_
#define PENSTOCK_PROTO_STRCAT_H_

#include <charconv>
#include <string>
#include <string_view>
#include <type_traits>

namespace penstock {
namespace strcat_internal {

// Anything that reads as text: std::string, std::string_view, absl::string_view, const char*.
template <class T>
void Append(std::string& out, const T& piece) {
  if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    out.append(std::string_view(piece));
  } else if constexpr (std::is_same_v<T, bool>) {
    out.append(piece ? "true" : "false");
  } else if constexpr (std::is_same_v<T, char>) {
    out.push_back(piece);
  } else if constexpr (std::is_arithmetic_v<T>) {
    char digits[64];
    const auto end = std::to_chars(digits, digits + sizeof(digits), piece);
    out.append(digits, end.ptr);
  } else {
    out.append(piece.data(), piece.size());
  }
}

}  // namespace strcat_internal

// Numbers are written in decimal, floating ones in their shortest exact form, bool as true or
// false.
template <class... T>
void StrAppend(std::string* out, const T&... pieces) {
  (strcat_internal::Append(*out, pieces), ...);
}

template <class... T>
[[nodiscard]] std::string StrCat(const T&... pieces) {
  std::string out;
  StrAppend(&out, pieces...);
  return out;
}

// The elements of `range`, each as StrCat writes it, with `separator` between them.
template <class Range>
[[nodiscard]] std::string Join(const Range& range, std::string_view separator) {
  std::string out;
  bool first = true;
  for (const auto& piece : range) {
    if (!first) out.append(separator);
    first = false;
    strcat_internal::Append(out, piece);
  }
  return out;
}

}  // namespace penstock

#endif  // PENSTOCK_PROTO_STRCAT_H_
