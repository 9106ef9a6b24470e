#include "server/store/directory_book.h"

#include "server/directory/view.h"

namespace penstock::server {

using layout::DirectoryPart;
using layout::RecordRef;

DirectoryBook::DirectoryBook(const RecordSlabs* slabs) : slabs_(slabs), partitions_(kPartitions), aside_(Less{this}) {}

DirectoryBook::Key DirectoryBook::KeyOf(RecordRef ref) const {
  const layout::Record* record = slabs_->At(ref);
  const DirectoryPart* part = layout::DirectoryPartOf(record);
  return {layout::NameOf(record), {part->op_session, part->op_count}};
}

std::vector<RecordRef>& DirectoryBook::PartitionFor(RecordRef ref) {
  const layout::Record* record = slabs_->At(ref);
  return partitions_[directory::PartitionOf(layout::NameOf(record), kPartitions)];
}

void DirectoryBook::Add(RecordRef ref) {
  std::vector<RecordRef>& refs = PartitionFor(ref);
  DirectoryPart* part = PartOf(ref);
  part->place = static_cast<uint32_t>(refs.size());
  part->aside = 0;
  refs.push_back(ref);
  ++count_;
  bytes_ += slabs_->At(ref)->nbytes;
}

void DirectoryBook::Remove(RecordRef ref) {
  if (IsAside(ref)) TakeBack(ref);
  std::vector<RecordRef>& refs = PartitionFor(ref);
  const uint32_t place = PartOf(ref)->place;
  refs[place] = refs.back();
  PartOf(refs[place])->place = place;
  refs.pop_back();
  --count_;
  bytes_ -= slabs_->At(ref)->nbytes;
}

void DirectoryBook::SetAside(RecordRef ref) {
  aside_.insert(ref);
  PartOf(ref)->aside = 1;
}

void DirectoryBook::TakeBack(RecordRef ref) {
  aside_.erase(ref);
  PartOf(ref)->aside = 0;
}

void DirectoryBook::Replace(RecordRef from, RecordRef to) {
  DirectoryPart* part = PartOf(to);
  part->place = PartOf(from)->place;
  part->aside = PartOf(from)->aside;
  PartitionFor(to)[part->place] = to;
  if (part->aside == 0) return;
  aside_.erase(from);
  aside_.insert(to);
}

bool DirectoryBook::IsAside(RecordRef ref) const { return PartOf(ref)->aside != 0; }

RecordRef DirectoryBook::FindAside(std::string_view name, directory::OpId op) const {
  const auto it = aside_.find(Key{name, op});
  return it == aside_.end() ? 0 : *it;
}

std::vector<RecordRef> DirectoryBook::AsideOf(std::string_view name) const {
  std::vector<RecordRef> refs;
  for (auto it = aside_.lower_bound(Key{name, {}}); it != aside_.end() && KeyOf(*it).name == name; ++it) refs.push_back(*it);
  return refs;
}

}  // namespace penstock::server
