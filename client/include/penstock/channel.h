// Channels: a tensor that changes all the time, from one writer to many readers, of this host and of others.
//
//   auto writer = client->OpenChannel("env/0/obs", DType::kF32, {84, 84, 4});
//   auto slot = writer->Begin();                       // memory of the channel itself
//   Fill(slot->data());
//   uint64_t seq = *std::move(*slot).Commit();         // a step: readers see it whole, or not at all
//
//   auto reader = client->Subscribe("env/0/obs");      // in any process
//   auto step = reader->Next(absl::Seconds(1));        // in its turn; Latest() for the newest one
//   Use(step->data());                                 // no copy: the writer goes on, and may come round
//   if (!step->Ok()) ...                               // it did: what was seen is worth nothing
//
// A reader on another host reads from its own node, which follows the channel there (steps keep their numbers) and knows what
// it missed; a writer here is found before one elsewhere. After opening, no call: writer and readers share a ring of slots, and a reader that waits sleeps on a word of it. What
// must last belongs in a tensor (client.h); a channel is as its writer leaves it, and ends with it.
//
// Threading:  a writer, a reader and a step: one thread at a time each. They may be moved between threads.
// Ownership:  they keep what they need of the session alive, and may outlive the Client. The memory is given back when
//             the writer and all readers and steps are gone.
// Errors:     Unavailable: the channel was closed, its writer died or the store ended (readers still get the steps that
//             were written before); Subscribe again for one that took its name; or, while closed() is false, the node that has the channel is not heard: it
//             goes on by itself when that is back. DeadlineExceeded: no step came in time.
// Fork:       the writer stays the parent's. A reader goes on in the child, where it subscribes by itself; steps stay good.
// Limits:     2..1024 slots. Steps are numbered from 1. Between hosts a step takes as long as the link does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "penstock/dtype.h"
#include "penstock/shape.h"

namespace penstock {

struct ConstTensorRef;
namespace client {
class Connection;      // internal
class MutableMapping;  // internal
}  // namespace client

struct ChannelOptions {
  uint32_t slots = 8;  // a step stays whole until the writer has begun this many further ones
};

// A step that is being written. Goes back without a trace unless it is committed.
class ChannelSlot {
 public:
  ChannelSlot(ChannelSlot&& other) noexcept = default;
  ChannelSlot& operator=(ChannelSlot&&) = delete;
  ~ChannelSlot() { Abort(); }

  void* data() const { return data_; }  // writable until Commit or Abort; C order; what it shows first is undefined
  uint64_t nbytes() const { return nbytes_; }
  uint64_t seq() const { return seq_; }

  std::shared_ptr<const void> Share() const { return mapping_; }  // keeps the memory mapped, not the step
  absl::StatusOr<uint64_t> Commit() &&;  // its number; Unavailable: the channel was closed meanwhile
  void Abort();                          // idempotent

 private:
  friend class ChannelWriter;
  ChannelSlot(std::shared_ptr<client::MutableMapping> mapping, uint64_t seq, void* data, uint64_t nbytes)
      : mapping_(std::move(mapping)), seq_(seq), data_(data), nbytes_(nbytes) {}
  std::shared_ptr<client::MutableMapping> mapping_;  // the writer's too; null: committed or aborted
  uint64_t seq_;
  void* data_;
  uint64_t nbytes_;
};

class ChannelWriter {
 public:
  ChannelWriter(ChannelWriter&&) noexcept = default;
  ChannelWriter& operator=(ChannelWriter&& other) noexcept;
  ~ChannelWriter() { Close(); }

  const std::string& name() const { return name_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  uint64_t nbytes() const { return nbytes_; }
  uint32_t slots() const { return slots_; }
  uint64_t seq() const;   // of the newest step; 0: none yet
  bool closed() const;

  // The memory of the next step; one at a time (FailedPrecondition). It overwrites the oldest one.
  absl::StatusOr<ChannelSlot> Begin();
  // A whole step with one copy; strided tensors are gathered. InvalidArgument: another dtype or shape.
  absl::StatusOr<uint64_t> Put(const ConstTensorRef& tensor);
  void Close();  // readers are told, the name is free; idempotent

 private:
  friend class Client;
  ChannelWriter() = default;
  absl::Status CheckOpen(const char* operation) const;

  std::shared_ptr<client::MutableMapping> mapping_;  // shared with arrays that bindings make of it
  std::string name_;
  DType dtype_ = DType::kInvalid;
  Shape shape_;
  uint64_t nbytes_ = 0;
  uint32_t slots_ = 0;
};

// One step, where it lies. Copies of it show the same.
class ChannelStep {
 public:
  const std::byte* data() const { return data_; }
  uint64_t nbytes() const { return nbytes_; }
  absl::Span<const std::byte> bytes() const { return {data_, nbytes_}; }
  uint64_t seq() const { return seq_; }
  uint64_t missed() const { return missed_; }  // steps between the one that this reader had before and this one
  std::shared_ptr<const void> Share() const { return mapping_; }
  // Whether it still is what was written as this step. Ask after the last look at its bytes.
  bool Ok() const;

 private:
  friend class ChannelReader;
  std::shared_ptr<const client::MutableMapping> mapping_;  // a step outlives its reader
  uint64_t seq_ = 0;
  uint64_t missed_ = 0;
  const std::byte* data_ = nullptr;
  uint64_t nbytes_ = 0;
};

struct SubscribeOptions {
  absl::Duration timeout = absl::ZeroDuration();  // for the channel to appear, or its node to be heard
  DType dtype = DType::kInvalid;                  // InvalidArgument if it is not of this one; kInvalid: any
  const Shape* shape = nullptr;                   // likewise; null: any
};

class ChannelReader {
 public:
  ChannelReader(ChannelReader&&) = default;
  ChannelReader& operator=(ChannelReader&&) = default;
  ~ChannelReader() = default;

  const std::string& name() const { return name_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  uint64_t nbytes() const { return nbytes_; }
  uint32_t slots() const { return slots_; }
  // No further step will come; those that are there can still be had.
  bool closed() const;

  // The newest step, again and again the same one until there is a newer one. NotFound: none was written yet.
  absl::StatusOr<ChannelStep> Latest();
  // The step after the last one that this reader was given; it waits for it. First the newest one there is, if any. A reader
  // that was too slow gets the oldest one that is whole, and `missed` tells how many it did not get.
  absl::StatusOr<ChannelStep> Next(absl::Duration timeout);
  // A copy of a step, never torn; its data is `out` then. As Latest, or as Next if `timeout` is given.
  absl::StatusOr<ChannelStep> ReadInto(void* out, uint64_t out_bytes, const absl::Duration* timeout = nullptr);

 private:
  friend class Client;
  ChannelReader() = default;
  absl::Status Subscribe(const SubscribeOptions& options);
  absl::Status PrepareInThisProcess();
  bool Take(uint64_t seq, ChannelStep* step) const;
  bool TakeNewest(ChannelStep* step);
  bool TakeNext(ChannelStep* step);
  absl::Status Ended() const;
  absl::Status Away() const;

  std::shared_ptr<client::Connection> connection_;  // shared with the Client: to subscribe anew in a forked child
  std::shared_ptr<client::MutableMapping> mapping_;
  std::string name_;
  DType dtype_ = DType::kInvalid;
  Shape shape_;
  uint64_t nbytes_ = 0;
  uint32_t slots_ = 0;
  uint64_t last_ = 0;  // the step that it was given last, or the one before the first that it may be given
};

}  // namespace penstock
