#include "server/membership/cluster_view.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <type_traits>
#include <utility>

#include "proto/strcat.h"
#include "proto/uuid_text.h"

namespace penstock::server {

namespace {

using Members = std::map<std::string, v1::Member, std::less<>>;

// As they describe themselves.
bool Same(const v1::Member& a, v1::Member b) {
  b.set_since(a.since());
  return a.SerializeAsString() == b.SerializeAsString();
}

Members MembersOf(const v1::View& view) {
  Members members;
  for (const v1::Member& member : view.members()) members[member.id()] = member;
  return members;
}

std::string NameOf(const v1::Member& member) { return StrCat(UuidText(member.id()), " (", member.address(), ")"); }

template <class Field>
bool EraseById(Field* field, std::string_view id) {
  const auto it = std::find_if(field->begin(), field->end(), [&](const auto& one) {
    if constexpr (std::is_same_v<std::decay_t<decltype(one)>, v1::Member>) return one.id() == id;
    else return one.member().id() == id;
  });
  if (it == field->end()) return false;
  field->erase(it);
  return true;
}

}  // namespace

std::optional<v1::View> NextView(const v1::View& view, const std::vector<v1::Member>& alive, uint64_t now_ns) {
  const Members before = MembersOf(view);
  Members now;
  for (const v1::Member& member : alive) now[member.id()] = member;
  std::map<std::string, v1::View::Absent> absent;
  for (const v1::View::Absent& one : view.absent()) {
    if (now.count(one.member().id()) == 0 && now_ns - std::min(now_ns, one.since_ns()) < kForgetAfterNs) absent[one.member().id()] = one;
  }
  for (const auto& [id, member] : before) {
    if (now.count(id) != 0) continue;
    *absent[id].mutable_member() = member;
    absent[id].set_since_ns(now_ns);
  }
  v1::View next;
  next.set_number(view.number() + 1);
  for (const auto& [id, member] : now) {
    const auto earlier = before.find(id);
    const bool stays = earlier != before.end() && earlier->second.boot() == member.boot();
    *next.add_members() = member;
    next.mutable_members()->rbegin()->set_since(stays ? earlier->second.since() : next.number());
  }
  for (const auto& [id, one] : absent) *next.add_absent() = one;
  const bool same_members = std::equal(before.begin(), before.end(), now.begin(), now.end(),
                                       [](const auto& a, const auto& b) { return Same(a.second, b.second); });
  if (same_members && next.absent_size() == view.absent_size()) return std::nullopt;
  return next;
}

std::optional<v1::View> ViewWithoutMember(const v1::View& view, std::string_view id) {
  v1::View next = view;
  next.set_number(view.number() + 1);
  if (!EraseById(next.mutable_members(), id)) return std::nullopt;
  return next;
}

std::optional<v1::View> ViewWithoutAbsent(const v1::View& view, std::string_view id) {
  v1::View next = view;
  next.set_number(view.number() + 1);
  if (!EraseById(next.mutable_absent(), id)) return std::nullopt;
  return next;
}

const v1::Member* FindMember(const v1::View& view, std::string_view id) {
  for (const v1::Member& member : view.members()) {
    if (member.id() == id) return &member;
  }
  return nullptr;
}

std::string DescribeChange(const v1::View& before, const v1::View& after) {
  const Members old = MembersOf(before), now = MembersOf(after);
  std::string joined, left, expelled;
  auto add = [](std::string* text, const v1::Member& member) { StrAppend(text, text->empty() ? "" : ", ", NameOf(member)); };
  for (const auto& [id, member] : now) {
    const auto it = old.find(id);
    if (it == old.end() || it->second.boot() != member.boot()) add(&joined, member);
  }
  for (const auto& [id, member] : old) {
    if (now.count(id) != 0) continue;
    const bool absent = std::any_of(after.absent().begin(), after.absent().end(), [&, id = id](const auto& one) { return one.member().id() == id; });
    add(absent ? &expelled : &left, member);
  }
  std::string text;
  for (const auto& [what, who] : {std::pair<std::string_view, const std::string&>{"joined", joined}, {"left", left}, {"expelled, as its lease ended", expelled}}) {
    if (!who.empty()) StrAppend(&text, text.empty() ? "" : "; ", what, ": ", who);
  }
  return text;
}

}  // namespace penstock::server
