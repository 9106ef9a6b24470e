// MutableMemory: the node's channels and regions: memory that changes, found by its name.
//
// Nothing of what is done with them later comes here: clients map the memory and talk to each other through it
// (proto/layout/channel_layout.h, region_layout.h). The node makes it, hands out descriptors, counts it, and when a session
// ends it says so to the others: a channel is closed, what was held of a region is free again.
//
// Life: made by OpenMutable; of a channel the name counts once its writer has mapped it and it is sealed, from when on
// nobody else can map it writable. The name goes when the writer closes it (channel) or with Delete (region), the memory
// when no session has it open any more; so does the name of a region then. A name that comes back gets new memory: what
// a client could ever write is never given to another.
//
// Threading:  any thread; a mutex of its own. Open is slow if it makes something (IsSlow).
// Ownership:  the memory is the warden's. A node process that takes over finds everything in its MutableBook.
// Errors:     InvalidArgument (field, value, what is allowed), NotFound, AlreadyExists (a second writer),
//             ResourceExhausted (store full, too many), Unavailable (the session has ended).
// Limits:     kMaxMutable channels and regions, kMaxHolders openings of each. A process that was forked keeps what it had
//             mapped: that memory is not counted once all sessions have closed it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/layout/fd_messages.h"
#include "server/mutable/mutable_book.h"
#include "server/store/store.h"
#include "transport/unique_fd.h"

namespace penstock::server {

// What an OpenMutable or DeleteMutable asks for, checked.
struct MutableSpec {
  layout::MutableKind kind{};
  bool create = false;
  bool exclusive = false;
  std::string name;
  uint64_t nbytes = 0;
  uint32_t slots = 0;
  DType dtype = DType::kInvalid;
  Shape shape;

  // Takes nothing on trust: the message is a client's.
  static absl::StatusOr<MutableSpec> FromMessage(const layout::MutableRequest& message);
};

class MutableMemory {
 public:
  static constexpr size_t kMaxMutable = 4096;
  static constexpr size_t kMaxHolders = 4096;

  // Finds what earlier node processes have left. The store must outlive it.
  static absl::StatusOr<std::unique_ptr<MutableMemory>> Create(Store* store);

  struct Opened {
    layout::MutableReply reply{};  // without its header
    UniqueFd fd;
  };
  // Whether Open would make something: not for a thread that serves others.
  static bool IsSlow(const MutableSpec& spec) { return spec.create; }
  // `opened`: the number of the request, which names this opening; the same again is the same one.
  absl::StatusOr<Opened> Open(uint64_t session, uint64_t opened, const MutableSpec& spec);
  absl::Status Mapped(uint64_t session, uint32_t segment, uint64_t opened);
  void Closed(uint64_t session, const layout::MutableMessage& message);
  // Whether there was one. Regions only.
  absl::StatusOr<bool> Delete(const MutableSpec& spec);
  void SessionEnded(uint64_t session);

 private:
  struct Holder {
    uint64_t session = 0;  // 0 = free place
    uint64_t opened = 0;
  };
  struct Item {
    MutableSpec spec;
    SharedSegment shared;
    Holder writer;               // of a channel; no session: it is closed
    BookEntry* entry = nullptr;  // null: not mapped by its writer yet
    std::vector<Holder> holders;
    bool named = true;
  };
  using Name = std::pair<layout::MutableKind, std::string>;

  explicit MutableMemory(Store* store) : store_(store), book_(&store->segments()) {}

  absl::Status Recover();
  void RecoverItem(BookEntry* entry, const SharedSegment& segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Opened> OpenKnown(Item& item, const Holder& holder, const MutableSpec& spec) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Make(const Holder& holder, const MutableSpec& spec);
  absl::Status Enter(Item& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Item* FindNamed(const MutableSpec& spec) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status SecondWriter(const Item& item) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Opened> Answer(const Item& item, bool made) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static absl::Status AddHolder(Item& item, const Holder& holder);
  static void RemoveHolder(Item& item, size_t place);
  void Unname(Item& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Close(Item& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropIfUnused(uint32_t segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Announce();

  Store* const store_;
  mutable std::mutex mutex_;
  MutableBook book_ ABSL_GUARDED_BY(mutex_);
  std::map<uint32_t, Item> items_ ABSL_GUARDED_BY(mutex_);  // by segment
  std::map<Name, uint32_t> names_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
