#include "server/store/name_order.h"

namespace penstock::server {

using layout::RecordRef;

NameOrder::Place& NameOrder::PlaceOf(RecordRef ref) {
  const uint32_t chunk = layout::ChunkOf(ref);
  if (chunk >= places_.size()) places_.resize(chunk + 1);
  if (places_[chunk] == nullptr) places_[chunk] = std::make_unique_for_overwrite<Place[]>(layout::kUnitsPerChunk);
  return places_[chunk][ref % layout::kUnitsPerChunk];
}

void NameOrder::Insert(RecordRef ref) {
  Place place = static_cast<Place>(records_.size());
  if (free_.empty()) {
    records_.push_back(ref);
  } else {
    place = free_.back();
    free_.pop_back();
    records_[place] = ref;
  }
  PlaceOf(ref) = place;
  tree_.insert(place);
}

void NameOrder::Replace(RecordRef from, RecordRef to) {
  const Place place = PlaceOf(from);
  PlaceOf(to) = place;
  records_[place] = to;
}

void NameOrder::Erase(RecordRef ref) {
  const Place place = PlaceOf(ref);
  tree_.erase(place);
  free_.push_back(place);
}

}  // namespace penstock::server
