#include "client/shards/assembly.h"

#include <algorithm>

#include "client/shards/boxes.h"
#include "proto/strcat.h"

namespace penstock::client {

namespace {

template <class Numbers>
Dims DimsOf(const Numbers& numbers) {
  return Dims(absl::Span<const int64_t>(numbers.data(), static_cast<size_t>(numbers.size())));
}

uint64_t TtlOf(const PutOptions& options) { return options.ttl ? static_cast<uint64_t>(absl::ToInt64Nanoseconds(*options.ttl)) : 0; }

template <class T>
absl::Status Disagree(std::string_view field, const T& is, const T& was) {
  return absl::InvalidArgumentError(StrCat(field, ": is ", is, ", but other shards of this tensor came with ", was, "; all must agree"));
}

Shape WholeOf(const Assembly& assembly) { return Shape(DimsOf(assembly.shape()).span()); }

}  // namespace

Assembly Begin(const ShardSpec& spec) {
  Assembly assembly;
  assembly.set_version(spec.options.version);
  assembly.set_dtype(static_cast<uint32_t>(spec.dtype));
  for (const int64_t dim : spec.whole.dims()) assembly.add_shape(dim);
  assembly.set_keep(spec.options.keep);
  assembly.set_ttl_ns(TtlOf(spec.options));
  for (const auto& [key, value] : spec.options.metadata) (*assembly.mutable_metadata())[key] = value;
  return assembly;
}

Assembly* Find(v1::ShardIndex& index, uint64_t version) {
  for (Assembly& assembly : *index.mutable_assemblies()) {
    if (assembly.version() == version) return &assembly;
  }
  return nullptr;
}

absl::Status CheckAgrees(const ShardSpec& spec, const Assembly& assembly) {
  const auto dtype = static_cast<DType>(assembly.dtype());
  if (spec.dtype != dtype) return Disagree("local: dtype", DTypeName(spec.dtype), DTypeName(dtype));
  if (spec.whole != WholeOf(assembly)) return Disagree("global_shape", spec.whole.ToString(), WholeOf(assembly).ToString());
  if (spec.options.keep != assembly.keep()) return Disagree("keep", spec.options.keep, assembly.keep());
  if (TtlOf(spec.options) != assembly.ttl_ns()) return Disagree("ttl in ns", TtlOf(spec.options), uint64_t{assembly.ttl_ns()});
  const Metadata metadata(assembly.metadata().begin(), assembly.metadata().end());
  if (spec.options.metadata == metadata) return absl::OkStatus();
  return absl::InvalidArgumentError("metadata: is not what other shards of this tensor came with; all must agree");
}

bool IsOver(const Assembly& assembly, uint64_t present_version) {
  if (assembly.number() == kAnyNumber) return true;
  const uint64_t number = assembly.version() != 0 ? assembly.version() : assembly.number();
  return number != 0 && present_version >= number;
}

bool HasSameBoxes(const Assembly& a, const Assembly& b) {
  return std::equal(a.boxes().begin(), a.boxes().end(), b.boxes().begin(), b.boxes().end(), [](const auto& x, const auto& y) { return x.id() == y.id(); });
}

bool SharesBoxes(const Assembly& a, const Assembly& b) {
  return std::any_of(a.boxes().begin(), a.boxes().end(), [&](const auto& x) {
    return std::any_of(b.boxes().begin(), b.boxes().end(), [&](const auto& y) { return x.id() == y.id(); });
  });
}

Box BoxOf(const v1::ShardIndex::Box& box) { return {.offset = DimsOf(box.offset()), .extent = DimsOf(box.extent())}; }

absl::StatusOr<const v1::ShardIndex::Box*> Meet(const Assembly& assembly, const Box& box) {
  for (const v1::ShardIndex::Box& other : assembly.boxes()) {
    const Box there = BoxOf(other);
    if (box == there) return &other;
    if (absl::Status s = CheckApart(box, there); !s.ok()) return absl::InvalidArgumentError(StrCat("offset: ", s.message()));
  }
  return nullptr;
}

void Add(const Box& box, const std::string& id, const std::string& session, Assembly* assembly) {
  v1::ShardIndex::Box* added = assembly->add_boxes();
  for (int i = 0; i < box.rank(); ++i) {
    added->add_offset(box.offset[i]);
    added->add_extent(box.extent[i]);
  }
  added->set_id(id);
  added->set_session(session);
}

void Remove(const std::vector<std::string>& ids, v1::ShardIndex* index) {
  for (int i = index->assemblies_size() - 1; i >= 0; --i) {
    auto* boxes = index->mutable_assemblies(i)->mutable_boxes();
    const auto is_gone = [&](const v1::ShardIndex::Box& box) { return std::find(ids.begin(), ids.end(), box.id()) != ids.end(); };
    boxes->erase(std::remove_if(boxes->begin(), boxes->end(), is_gone), boxes->end());
    if (boxes->empty()) index->mutable_assemblies()->DeleteSubrange(i, 1);
  }
}

bool Covers(const Assembly& assembly, const Box& box) {
  int64_t covered = box.shape().num_elements();
  for (const v1::ShardIndex::Box& other : assembly.boxes()) covered += BoxOf(other).shape().num_elements();
  return covered == WholeOf(assembly).num_elements();
}

std::vector<Box> MissingWith(const Assembly& assembly, const Box& box) {
  std::vector<Box> boxes{box};
  for (const v1::ShardIndex::Box& other : assembly.boxes()) boxes.push_back(BoxOf(other));
  return Missing(WholeOf(assembly), boxes);
}

std::string Text(const std::vector<Box>& boxes) {
  constexpr size_t kMost = 4;
  std::string text;
  for (size_t i = 0; i < std::min(kMost, boxes.size()); ++i) StrAppend(&text, i == 0 ? "[" : ", [", boxes[i].ToString(), "]");
  if (boxes.size() > kMost) StrAppend(&text, " and ", boxes.size() - kMost, " more");
  return text;
}

}  // namespace penstock::client
