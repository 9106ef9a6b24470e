#include "client/session/pin_table.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>
#include <unordered_map>
#include <utility>

#include "proto/strcat.h"
#include "transport/futex.h"
#include "transport/sys_error.h"

namespace penstock::client {
namespace {

using layout::kPinChunkBytes;
using layout::kPinsPerChunk;

// The living tables by serial, so that a thread that ends, or turns to another session, can give
// its slots back to a table that may be gone. Never destroyed: threads may end after main.
struct Registry {
  std::mutex mutex;
  uint64_t next_serial = 1;
  std::unordered_map<uint64_t, PinTable*> tables;
};
Registry& TheRegistry() {
  static Registry* registry = new Registry;
  return *registry;
}

}  // namespace

constinit thread_local PinTable::Cache* PinTable::thread_cache_ = nullptr;

std::mutex& PinTable::RegistryMutex() { return TheRegistry().mutex; }

struct PinTable::CacheOwner {
  Cache cache;
  ~CacheOwner() {
    thread_cache_ = nullptr;
    Flush(&cache);
  }
};

PinTable::Cache* PinTable::MakeThreadCache() {
  static thread_local CacheOwner owner;
  thread_cache_ = &owner.cache;
  return thread_cache_;
}

PinTable::PinTable(Grow grow) : grow_(std::move(grow)) {
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  serial_ = registry.next_serial++;
  registry.tables[serial_] = this;
}

PinTable::~PinTable() {
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  registry.tables.erase(serial_);
}

void PinTable::AddExtra(uint32_t chunk) {
  extra_owned_.push_back(std::make_unique<std::atomic<uint32_t>[]>(kPinsPerChunk));
  extra_[chunk].store(extra_owned_.back().get(), std::memory_order_release);
}

void PinTable::AddFirstChunk(Mapping chunk) {
  std::lock_guard<std::mutex> lock(mutex_);
  AddExtra(0);
  chunks_[0].store(reinterpret_cast<std::atomic<uint64_t>*>(chunk.data()));
  mappings_.push_back(std::move(chunk));
  chunk_count_.store(1, std::memory_order_release);
  for (uint32_t slot = kPinsPerChunk; slot-- > 0;) free_.push_back(slot);
}

void PinTable::Flush(Cache* cache) {
  if (cache->count == 0) return;
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  const auto it = registry.tables.find(cache->serial);
  if (it != registry.tables.end()) {
    std::lock_guard<std::mutex> table_lock(it->second->mutex_);
    while (cache->count > 0) it->second->free_.push_back(cache->Pop());
  }
  cache->count = 0;
}

uint32_t PinTable::TakeFree() {
  Cache* cache = thread_cache_ != nullptr ? thread_cache_ : MakeThreadCache();
  if (cache->serial != serial_) {
    Flush(cache);
    cache->serial = serial_;
    cache->count = 0;
  }
  if (cache->count == 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    while (!free_.empty() && cache->count < kCacheSlots / 2) {
      cache->Push(free_.back());
      free_.pop_back();
    }
  }
  return cache->count > 0 ? cache->Pop() : kNoSlot;
}

absl::StatusOr<uint32_t> PinTable::TakeSlow() {
  while (true) {
    const uint32_t chunks_seen = chunk_count();
    if (const uint32_t slot = TakeFree(); slot != kNoSlot) return slot;
    std::lock_guard<std::mutex> growing(grow_mutex_);
    if (chunk_count() != chunks_seen) continue;
    if (chunks_seen == layout::kMaxPinChunks) {
      return absl::ResourceExhaustedError(StrCat("this session holds ",
                                                 layout::kMaxPinChunks * kPinsPerChunk,
                                                 " open views, which is the most it can"));
    }
    absl::StatusOr<Mapping> chunk = grow_(chunks_seen);
    if (!chunk.ok()) return chunk.status();
    std::lock_guard<std::mutex> lock(mutex_);
    AddExtra(chunks_seen);
    chunks_[chunks_seen].store(reinterpret_cast<std::atomic<uint64_t>*>(chunk->data()),
                               std::memory_order_release);
    mappings_.push_back(*std::move(chunk));
    for (uint32_t i = kPinsPerChunk; i-- > 0;) free_.push_back(chunks_seen * kPinsPerChunk + i);
    chunk_count_.store(chunks_seen + 1, std::memory_order_release);
  }
}

void PinTable::GiveSlow(uint32_t slot) {
  Cache* cache = thread_cache_;
  std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(slot);
  if (cache == nullptr || cache->serial != serial_) return;
  // A thread that releases more than it takes: half of its cache goes back at once.
  while (cache->count > kCacheSlots / 2) free_.push_back(cache->Pop());
}

bool PinTable::WaitOpen() {
  while (true) {
    const uint32_t gate = gate_.load();
    if ((gate & kEnded) != 0) return false;
    if (gate == 0) return true;
    FutexWait(&gate_, gate, absl::Milliseconds(100));
  }
}

void PinTable::Thaw() {
  gate_.fetch_and(~kFrozen);
  FutexWake(&gate_);
}

bool PinTable::AnyPinned() const {
  for (uint32_t chunk = 0; chunk < chunk_count(); ++chunk) {
    const std::atomic<uint64_t>* words = chunks_[chunk].load();
    for (uint32_t i = 0; i < kPinsPerChunk; ++i) {
      if ((words[i].load() & 1) != 0) return true;
    }
  }
  return false;
}

absl::StatusOr<std::vector<UniqueFd>> PinTable::CopyChunks() const {
  std::vector<UniqueFd> copies;
  std::vector<uint64_t> words(kPinsPerChunk);
  for (uint32_t chunk = 0; chunk < chunk_count(); ++chunk) {
    for (uint32_t i = 0; i < kPinsPerChunk; ++i) words[i] = chunks_[chunk].load()[i].load();
    UniqueFd fd(memfd_create("penstock-pins", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd) return SysError(errno, "memfd_create of a pin chunk");
    if (write(fd.get(), words.data(), kPinChunkBytes) != static_cast<ssize_t>(kPinChunkBytes) ||
        fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) != 0) {
      return SysError(errno, "copy of a pin chunk");
    }
    copies.push_back(std::move(fd));
  }
  return copies;
}

bool PinTable::ChildReset(const std::vector<UniqueFd>& copies) {
  bool mapped = copies.size() == chunk_count();
  for (uint32_t chunk = 0; chunk < chunk_count(); ++chunk) {
    void* const words = chunks_[chunk].load();
    if (mapped && mmap(words, kPinChunkBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                       copies[chunk].get(), 0) != MAP_FAILED) {
      continue;
    }
    mapped = false;
    mmap(words, kPinChunkBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
         -1, 0);
  }
  new (&grow_mutex_) std::mutex;  // its holder, if any, is a thread that this process does not have
  RebuildFree();
  gate_.store(mapped ? 0 : kEnded);
  return mapped;
}

void PinTable::RebuildFree() {
  // The threads whose caches held slots are gone, but for this one, which forgets its cache: a slot
  // is free if its word pins nothing.
  free_.clear();
  for (uint32_t slot = chunk_count() * kPinsPerChunk; slot-- > 0;) {
    if ((Word(slot).load() & 1) == 0) free_.push_back(slot);
  }
  if (thread_cache_ != nullptr && thread_cache_->serial == serial_) thread_cache_->count = 0;
}

}  // namespace penstock::client
