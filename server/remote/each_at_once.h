// EachAtOnce: one call for each entry of a map, all at the same time.
//
// Threading:  the last one on the caller's thread, each other one on a thread of its own; returns when all are over
// Ownership:  none
// Errors:     the calls must not throw
// Limits:     a thread an entry: for as many as there are nodes
#pragma once

#include <iterator>
#include <thread>
#include <vector>

namespace penstock::server {

// call(key, value)
template <typename Map, typename Call>
void EachAtOnce(const Map& map, const Call& call) {
  if (map.empty()) return;
  std::vector<std::thread> others;
  const auto last = std::prev(map.end());
  for (auto it = map.begin(); it != last; ++it) others.emplace_back([&call, it] { call(it->first, it->second); });
  call(last->first, last->second);
  for (std::thread& other : others) other.join();
}

}  // namespace penstock::server
