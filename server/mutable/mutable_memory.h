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
// Other nodes follow a channel through a ChannelSource. The other way round, a channel of another node has a *mirror* here,
// which the node writes (server/remote/channel_follower.h) and readers open like any channel. It keeps its memory until that
// one lets go of it (EndMirrorIfOver, CloseMirror). A writer here takes the name from a mirror.
//
// Threading:  any thread; a mutex of its own. Open is slow if it makes something (IsSlow); MakeMirror and Follow are, too.
// Ownership:  the memory is the warden's. A node process that takes over finds everything in its MutableBook. Sources must
//             go before it does.
// Errors:     InvalidArgument (field, value, what is allowed), NotFound, AlreadyExists (a second writer),
//             ResourceExhausted (store full, too many), Unavailable (the session has ended).
// Limits:     kMaxMutable channels and regions, kMaxHolders openings of each. A process that was forked keeps what it had
//             mapped: that memory is not counted once all sessions have closed it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/layout/channel_layout.h"
#include "proto/layout/fd_messages.h"
#include "server/mutable/channel_source.h"
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

// Whether such a channel can be made. InvalidArgument names the field.
absl::Status CheckChannel(const MutableSpec& spec);

class MutableMemory {
 public:
  static constexpr size_t kMaxMutable = 4096;
  static constexpr size_t kMaxHolders = 4096;

  // Finds what earlier node processes have left. The store must outlive it. `bell_fd`: borrowed; -1: an eventfd of its own.
  static absl::StatusOr<std::unique_ptr<MutableMemory>> Create(Store* store, int bell_fd = -1);

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
  int bell_fd() const { return bell_fd_; }

  // --- for other nodes: channels that are written here ---
  struct Facts {
    MutableSpec spec;
    uint64_t incarnation = 0;
    uint64_t newest = 0;  // step
  };
  // NotFound: none of this name is written here.
  absl::StatusOr<Facts> Look(const std::string& name);
  // The same, and to follow it. ResourceExhausted: no room for a copy of a step.
  absl::StatusOr<std::shared_ptr<ChannelSource>> Follow(const std::string& name, Facts* facts);

  // --- mirrors: channels that are written elsewhere ---
  struct MirrorMemory {
    uint32_t segment = 0;
    char* address = nullptr;
    Facts facts;
    bool made = false;  // by this call; else there was one
    std::shared_ptr<const void> hold = nullptr;  // MakeMirror's: the memory stays as long as this, whoever lets go of it
  };
  // For the session's opening, which then is a holder. AlreadyExists: a channel of that name is written here.
  absl::StatusOr<MirrorMemory> MakeMirror(uint64_t session, uint64_t opened, const Facts& facts, const std::string& home);
  // Those of an earlier node process. Once.
  std::vector<MirrorMemory> TakeMirrors() { return std::move(recovered_mirrors_); }
  void SetMirrorHome(uint32_t segment, const std::string& home);
  // No further step will come; the caller lets go of its memory.
  void CloseMirror(uint32_t segment);
  // Whether nobody reads it any more, or its name was taken. If so, End lets go of its memory for the caller.
  bool IsMirrorOver(uint32_t segment);
  bool EndMirrorIfOver(uint32_t segment);
  // Called, with the lock held, when EndMirrorIfOver may have become true for one. To be set before there are mirrors.
  void OnMirrorOver(std::function<void()> callback) { on_mirror_over_ = std::move(callback); }

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
    uint64_t incarnation = 0;  // of a channel
    bool is_mirror = false;
    std::string home;          // of a mirror: the address of the node that has the channel
    int followers = 0;
  };
  using Name = std::pair<layout::MutableKind, std::string>;

  // Holders that are no sessions.
  static constexpr uint64_t kNodeHolder = uint64_t{1} << 63;      // of a mirror: who writes it
  static constexpr uint64_t kFollowerHolder = uint64_t{1} << 62;  // a ChannelSource, or a MirrorMemory::hold

  explicit MutableMemory(Store* store) : store_(store), book_(&store->segments()) {}

  absl::Status Recover();
  void RecoverHolders(Item& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
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
  void RingBell(const layout::ChannelHeader& header) const;
  Item* FindWritten(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static Facts FactsOf(const Item& item);
  void Unfollow(uint32_t segment, uint64_t number, uint64_t nbytes);
  void RemoveFollower(Item& item, uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::shared_ptr<const void>> HoldMirror(Item& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<MirrorMemory> OpenMirror(Item& item, const Holder& reader, bool made) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<MirrorMemory> EnterMirror(const SharedSegment& memory, const Holder& reader, const Facts& facts, const std::string& home) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static bool HasReaders(const Item& item);
  static bool IsOver(const Item& mirror) { return !mirror.named || !HasReaders(mirror); }
  void LetGo(Item& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Store* const store_;
  UniqueFd own_bell_;
  int bell_fd_ = -1;
  std::function<void()> on_mirror_over_;
  mutable std::mutex mutex_;
  MutableBook book_ ABSL_GUARDED_BY(mutex_);
  std::map<uint32_t, Item> items_ ABSL_GUARDED_BY(mutex_);  // by segment
  std::map<Name, uint32_t> names_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_follower_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<MirrorMemory> recovered_mirrors_;
};

}  // namespace penstock::server
