// The directory's tables over restarts of the node's process.
#include "server/store/table_log.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <string>

#include "tests/unit/server/store/store_fixture.h"

namespace penstock::server {
namespace {

using directory::Entry;
using directory::Partition;
using directory::TableHeader;
using directory::Term;

// What should be there.
struct Table {
  Term promised = 0;
  bool complete = false;
  TableHeader header;
  std::map<std::string, Entry> entries;
};
using Tables = std::map<Partition, Table>;

bool Same(const Entry& a, const Entry& b) {
  return a.text == b.text && a.version == b.version && a.stamp == b.stamp && a.op == b.op && a.nbytes == b.nbytes && a.holders == b.holders &&
         a.name_bytes == b.name_bytes && a.reasons == b.reasons && a.replicas == b.replicas && a.deleted == b.deleted && a.cache == b.cache;
}

bool Same(const TableHeader& a, const TableHeader& b) {
  return a.term == b.term && a.base == b.base && a.floor.stamp == b.floor.stamp && a.floor.number == b.floor.number &&
         a.floor.lost_before == b.floor.lost_before && a.floor.loss_is_recent == b.floor.loss_is_recent;
}

class TableLogTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    log_ = std::make_unique<TableLog>(&store_->segments(), store_->TakeTableSegments());
  }
  void TearDown() override {
    log_.reset();
    StoreTest::TearDown();
  }
  void NextProcess() {
    log_.reset();
    KillAndRestart();
    log_ = std::make_unique<TableLog>(&store_->segments(), store_->TakeTableSegments());
  }

  Entry RandomEntry(const std::string& name) {
    Entry entry;
    entry.SetText(name, std::string(random_() % 300, 'i'));
    entry.version = {random_() % 100, random_()};
    entry.stamp = {random_() % 100, ++change_};
    entry.op = {random_(), random_()};
    entry.nbytes = random_();
    for (size_t i = random_() % 4; i > 0; --i) entry.holders.push_back(random_() | 1);
    entry.replicas = static_cast<uint8_t>(1 + random_() % 3);
    entry.deleted = random_() % 4 == 0;
    entry.cache = random_() % 2 == 0;
    return entry;
  }

  void Step() {
    const auto p = static_cast<Partition>(random_() % 50);
    Table& table = expected_[p];
    const std::string name = "name/" + std::to_string(random_() % 400);
    switch (random_() % 100) {
      case 0:
        log_->Clear(p);
        table.entries.clear();
        table.complete = false;
        break;
      case 1: case 2: case 3:
        table.promised = random_() % 1000;
        log_->SetPromise(p, table.promised);
        break;
      case 4: case 5: case 6: case 7:
        table.complete = true;
        table.header = {.floor = {.stamp = {random_(), random_()}, .number = random_(), .lost_before = random_() % 9, .loss_is_recent = random_() % 2 == 0},
                        .term = random_(), .base = random_()};
        log_->SetComplete(p, table.header);
        break;
      case 8: case 9: case 10: case 11: case 12: case 13: case 14: case 15:
        log_->Erase(p, name);
        table.entries.erase(name);
        break;
      default: {
        const Entry entry = RandomEntry(name);
        log_->Put(p, entry);
        table.entries.insert_or_assign(name, entry);
      }
    }
  }

  // As Partitions does, between its events.
  void Renew() {
    log_->Renew([this](Partition p, directory::Tables* to) {
      const auto found = expected_.find(p);
      if (found == expected_.end()) return;
      if (found->second.promised != 0) to->SetPromise(p, found->second.promised);
      for (const auto& [name, entry] : found->second.entries) to->Put(p, entry);
      if (found->second.complete) to->SetComplete(p, found->second.header);
    });
  }

  void ExpectLoaded() {
    Tables loaded;
    log_->Load({.promise = [&](Partition p, Term promised) { loaded[p].promised = promised; },
                .complete = [&](Partition p, const TableHeader& header) {
                  loaded[p].complete = true;
                  loaded[p].header = header;
                },
                .entry = [&](Partition p, Entry entry) {
                  const std::string name(entry.name());
                  EXPECT_TRUE(loaded[p].complete);
                  EXPECT_TRUE(loaded[p].entries.emplace(name, std::move(entry)).second) << "twice: " << name;
                }});
    for (const auto& [p, table] : expected_) {
      EXPECT_EQ(loaded[p].promised, table.promised);
      ASSERT_EQ(loaded[p].complete, table.complete) << p;
      if (!table.complete) continue;
      EXPECT_TRUE(Same(loaded[p].header, table.header));
      ASSERT_EQ(loaded[p].entries.size(), table.entries.size()) << p;
      for (const auto& [name, entry] : table.entries) {
        ASSERT_TRUE(loaded[p].entries.contains(name));
        EXPECT_TRUE(Same(loaded[p].entries[name], entry)) << name;
      }
    }
  }

  std::mt19937_64 random_{7};
  uint64_t change_ = 0;
  Tables expected_;
  std::unique_ptr<TableLog> log_;
};

TEST_F(TableLogTest, AnEmptyOneIsEmpty) {
  NextProcess();
  ExpectLoaded();
  EXPECT_EQ(log_->bytes(), 0);
}

TEST_F(TableLogTest, WhatWasSaidIsKnownToTheNextProcessAndTheOneAfterIt) {
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 500; ++i) Step();
    NextProcess();
    ExpectLoaded();
  }
}

// 200 bytes a step: the log is written anew some times.
TEST_F(TableLogTest, WhatIsNoLongerSoDoesNotFillTheMemory) {
  uint64_t most = 0;
  for (int i = 0; i < 400'000; ++i) {
    Step();
    if (i % 10 == 0) Renew();
    most = std::max(most, log_->bytes());
  }
  EXPECT_LT(most, uint64_t{40} << 20);
  ExpectLoaded();
  NextProcess();
  ExpectLoaded();
  EXPECT_FALSE(log_->lost());
}

// A renewal of 5 MiB takes some calls; processes end in the middle of it.
TEST_F(TableLogTest, AProcessThatEndsWhileTheLogIsWrittenAnewLosesNothing) {
  int renewals = 0;
  for (int round = 0; round < 30; ++round) {
    const uint64_t before = log_->bytes();
    for (int i = 0; i < 20'000 + 37 * round; ++i) {
      Step();
      if (i % 100 == 0) Renew();
    }
    renewals += log_->bytes() < before;
    NextProcess();
    ExpectLoaded();
  }
  EXPECT_GE(renewals, 2);
  EXPECT_FALSE(log_->lost());
}

TEST_F(TableLogTest, ReasonsAreKept) {
  Entry entry = RandomEntry("x");
  entry.AddHolder(9, 0x030201);
  log_->Put(1, entry);
  Table& table = expected_[1];
  table.entries["x"] = entry;
  table.complete = true;
  log_->SetComplete(1, table.header);
  NextProcess();
  ExpectLoaded();
  log_->Load({.promise = [](Partition, Term) {}, .complete = [](Partition, const TableHeader&) {},
              .entry = [&](Partition, Entry loaded) {
                EXPECT_EQ(loaded.WhyHolder(loaded.holders.size() - 1), 0x030201u);
                EXPECT_EQ(loaded.info(), entry.info());
              }});
}

TEST_F(TableLogTest, WhatIsForgottenStaysForgotten) {
  for (int i = 0; i < 1000; ++i) Step();
  log_->Forget();
  expected_.clear();
  for (int i = 0; i < 100; ++i) Step();
  NextProcess();
  ExpectLoaded();
}

}  // namespace
}  // namespace penstock::server
