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
  b.set_draining(a.draining());
  return a.SerializeAsString() == b.SerializeAsString();
}

bool BeginAlike(std::string_view a, std::string_view b) { return a != b && a.substr(0, 8) == b.substr(0, 8); }

bool HasPlaceOf(const v1::Member& member, const v1::Member& absent) {
  return member.id() != absent.id() && !member.host().empty() && member.host() == absent.host() && member.address() == absent.address();
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

const v1::Member* WhoBars(std::string_view id, const v1::View& view, const std::vector<v1::Member>& alive) {
  if (FindMember(view, id) != nullptr) return nullptr;
  for (const v1::Member& member : view.members()) {
    if (BeginAlike(member.id(), id)) return &member;
  }
  for (const v1::View::Absent& absent : view.absent()) {
    if (BeginAlike(absent.member().id(), id)) return &absent.member();
  }
  for (const v1::Member& member : alive) {
    if (BeginAlike(member.id(), id) && member.id() < id) return &member;
  }
  return nullptr;
}

namespace {

// By id: who was absent and still is, and who is from now on.
std::map<std::string, v1::View::Absent> AbsentBeside(const Members& now, const Members& before, const v1::View& view, uint64_t now_ns) {
  std::map<std::string, v1::View::Absent> absent;
  for (const v1::View::Absent& one : view.absent()) {
    if (now_ns - std::min(now_ns, one.since_ns()) < kForgetAfterNs) absent[one.member().id()] = one;
  }
  for (const auto& [id, member] : before) {
    *absent[id].mutable_member() = member;
    absent[id].set_since_ns(now_ns);
  }
  for (const auto& [id, member] : now) {
    absent.erase(id);
    for (auto it = absent.begin(); it != absent.end();) it = HasPlaceOf(member, it->second.member()) ? absent.erase(it) : std::next(it);
  }
  return absent;
}

}  // namespace

std::optional<v1::View> NextView(const v1::View& view, const std::vector<v1::Member>& alive, uint64_t now_ns, uint64_t new_cluster_id) {
  const Members before = MembersOf(view);
  Members now;
  for (const v1::Member& member : alive) {
    if (WhoBars(member.id(), view, alive) == nullptr) now[member.id()] = member;
  }
  v1::View next;
  next.set_number(view.number() + 1);
  next.set_cluster_id(view.cluster_id() != 0 ? view.cluster_id() : new_cluster_id);
  for (const auto& [id, member] : now) {
    const auto earlier = before.find(id);
    const bool stays = earlier != before.end() && earlier->second.boot() == member.boot();
    const v1::Member* known = stays ? &earlier->second : FindAbsent(view, id);
    v1::Member* added = next.add_members();
    *added = member;
    added->set_since(stays ? earlier->second.since() : next.number());
    added->set_draining(known != nullptr && known->boot() == member.boot() && known->draining());
  }
  for (const auto& [id, one] : AbsentBeside(now, before, view, now_ns)) *next.add_absent() = one;
  const bool same_members = std::equal(before.begin(), before.end(), now.begin(), now.end(),
                                       [](const auto& a, const auto& b) { return Same(a.second, b.second); });
  const bool has_id = view.cluster_id() != 0 || now.empty();
  if (same_members && has_id && next.absent_size() == view.absent_size()) return std::nullopt;
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

std::optional<v1::View> ViewWithDraining(const v1::View& view, std::string_view id, bool draining) {
  v1::View next = view;
  for (v1::Member& member : *next.mutable_members()) {
    if (member.id() != id) continue;
    if (member.draining() == draining) return view;
    member.set_draining(draining);
    next.set_number(view.number() + 1);
    return next;
  }
  return std::nullopt;
}

const v1::Member* FindMember(const v1::View& view, std::string_view id) {
  for (const v1::Member& member : view.members()) {
    if (member.id() == id) return &member;
  }
  return nullptr;
}

const v1::Member* FindAbsent(const v1::View& view, std::string_view id) {
  for (const v1::View::Absent& absent : view.absent()) {
    if (absent.member().id() == id) return &absent.member();
  }
  return nullptr;
}

std::string DescribeChange(const v1::View& before, const v1::View& after) {
  const Members old = MembersOf(before), now = MembersOf(after);
  std::string joined, restarted, drains, stays, left, expelled;
  auto add = [](std::string* text, const v1::Member& member) { StrAppend(text, text->empty() ? "" : ", ", NameOf(member)); };
  for (const auto& [id, member] : now) {
    const auto it = old.find(id);
    const bool known = it != old.end() && it->second.boot() == member.boot();
    if (!known) add(&joined, member);
    else if (it->second.session() != member.session()) add(&restarted, member);
    if (member.draining() != (known && it->second.draining())) add(member.draining() ? &drains : &stays, member);
  }
  for (const auto& [id, member] : old) {
    if (now.count(id) == 0) add(FindAbsent(after, id) != nullptr ? &expelled : &left, member);
  }
  std::string text;
  for (const auto& [what, who] : {std::pair<std::string_view, const std::string&>{"joined", joined}, {"its process was replaced", restarted},
                                  {"is drained", drains}, {"is drained no more", stays}, {"left", left}, {"expelled, as its lease ended", expelled}}) {
    if (!who.empty()) StrAppend(&text, text.empty() ? "" : "; ", what, ": ", who);
  }
  return text;
}

}  // namespace penstock::server
