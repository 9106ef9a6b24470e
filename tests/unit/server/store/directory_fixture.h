// DirectoryStoreTest: a store whose names are the cluster directory's, and the steps that a node takes with its records.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "server/store/store_records.h"
#include "tests/unit/server/store/store_fixture.h"

namespace penstock::server {

// Of StoreTest, or of one that serves clients.
template <class Base>
class DirectoryTest : public Base {
 protected:
  using OpId = directory::OpId;
  using State = directory::RecordState;
  using Version = directory::Version;

  void SetUp() override {
    this->with_directory_ = true;
    Base::SetUp();
  }

  StoreRecords Records() { return StoreRecords(this->store_.get()); }

  // As a put's bytes lie here before its home has heard of it.
  layout::RecordRef Prepare(Session& session, CreateSpec spec, OpId op, char fill = 'x', Store::Preparation as = {}) {
    spec.judged_later = true;
    const Placed placed = this->Reserve(session, spec).value();
    if (spec.nbytes > 0) std::memset(placed.block.address, fill, spec.nbytes);
    const Store::TakenDraft taken = this->store_->TakeDraft(session, placed.record, placed.record_seq).value();
    as.op = op;
    if (as.prepared_in == 0) as.prepared_in = 1;
    EXPECT_TRUE(this->store_->Prepare(taken.record, as).ok());
    return taken.record;
  }
  void Set(std::string_view name, OpId op, State state, Version version = {}) { Records().SetState(name, op, state, version); }
  void PutLive(Session& session, const CreateSpec& spec, OpId op, Version version, char fill = 'x') {
    Prepare(session, spec, op, fill);
    Set(spec.name, op, State::kLive, version);
  }
  State StateOf(std::string_view name, OpId op) { return Records().Find(name, op)->state; }
  bool Holds(std::string_view name, OpId op) { return Records().Find(name, op).has_value(); }

  std::string BytesOf(std::string_view name, OpId op) {
    const auto held = this->store_->HoldByOp(name, op);
    return held.ok() ? std::string(held->data, held->info.nbytes()) : std::string(held.status().ToString());
  }

  std::vector<std::pair<v1::Event::Kind, std::string>> TensorEvents() {
    v1::WatchRequest request;
    request.set_from_start(true);
    request.set_tensors_only(true);
    request.set_limit(1024);
    v1::WatchResponse response;
    this->store_->Events(request, &response);
    std::vector<std::pair<v1::Event::Kind, std::string>> events;
    for (const v1::Event& event : response.events()) events.emplace_back(event.kind(), event.info().name());
    return events;
  }

  layout::Record* RecordAt(layout::RecordRef ref) {
    const uint32_t segment = this->store_->header()->chunk_segment[layout::ChunkOf(ref)].load();
    return reinterpret_cast<layout::Record*>(this->memory_.segments.at(segment).mapping.data() + layout::ByteInChunk(ref));
  }
};

using DirectoryStoreTest = DirectoryTest<StoreTest>;

}  // namespace penstock::server
