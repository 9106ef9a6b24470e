#include "server/allocator/block_allocator.h"

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

constexpr uint64_t RangeAlignment(uint64_t nbytes) {
  return nbytes < kWholePagesFromBytes ? kRangeGranuleBytes : kPageGranuleBytes;
}

// The books and their user disagree: going on would give one block to two tensors.
[[noreturn]] void DieOfBadFree(uint64_t offset, uint64_t nbytes) {
  std::fprintf(stderr, "penstock: free of a block that is not allocated: offset %llu, %llu bytes\n",
               static_cast<unsigned long long>(offset), static_cast<unsigned long long>(nbytes));
  std::abort();
}

std::string BlockText(uint64_t offset, uint64_t nbytes) {
  return absl::StrCat("reserve block at offset ", offset, " of ", nbytes, " bytes");
}

}  // namespace

BlockAllocator::BlockAllocator(uint64_t size)
    : size_(AlignDown(size, kRangeGranuleBytes)), ranges_(size_) {}

std::optional<uint64_t> BlockAllocator::Allocate(uint64_t nbytes) {
  allocated_ = true;
  if (nbytes == 0) return 0;
  if (nbytes > size_) return std::nullopt;
  return nbytes <= kMaxSmallBytes ? AllocateSmall(nbytes) : AllocateRange(nbytes);
}

std::optional<uint64_t> BlockAllocator::AllocateSmall(uint64_t nbytes) {
  const int size_class = SmallClass(nbytes);
  Slab* slab = roomy_[size_class];
  if (slab == nullptr) {
    const auto base = ranges_.Take(kSlabBytes, kSlabBytes, kSlabBytes);
    if (!base) return std::nullopt;
    slab = AddSlab(*base, size_class);
  }
  const uint32_t slot = slab->TakeAny();
  if (slab->full()) UnlinkRoomy(slab);
  used_bytes_ += slab->slot_bytes();
  free_slot_bytes_ -= slab->slot_bytes();
  return slab->base() + uint64_t{slot} * slab->slot_bytes();
}

std::optional<uint64_t> BlockAllocator::AllocateRange(uint64_t nbytes) {
  const uint64_t bytes = BlockBytes(nbytes);
  const uint64_t alignment = RangeAlignment(nbytes);
  const auto offset =
      ranges_.Take(bytes, alignment, bytes >= kHugePageBytes ? kHugePageBytes : alignment);
  if (offset) used_bytes_ += bytes;
  return offset;
}

void BlockAllocator::Free(uint64_t offset, uint64_t nbytes) {
  if (nbytes == 0) return;
  if (nbytes > size_ || offset > size_ - nbytes) DieOfBadFree(offset, nbytes);
  if (nbytes <= kMaxSmallBytes) return FreeSmall(offset, nbytes);
  const uint64_t bytes = BlockBytes(nbytes);
  if (offset % RangeAlignment(nbytes) != 0 || bytes > size_ - offset || bytes > used_bytes_ ||
      !ranges_.Give(offset, bytes)) {
    DieOfBadFree(offset, nbytes);
  }
  used_bytes_ -= bytes;
}

void BlockAllocator::FreeSmall(uint64_t offset, uint64_t nbytes) {
  const auto found = slabs_.find(offset / kSlabBytes);
  if (found == slabs_.end()) DieOfBadFree(offset, nbytes);
  Slab* slab = found->second.get();
  const auto within = static_cast<uint32_t>(offset - slab->base());
  const uint32_t slot = within / slab->slot_bytes();
  if (slab->size_class() != SmallClass(nbytes) || slot * slab->slot_bytes() != within ||
      slot >= slab->slot_count() || !slab->IsTaken(slot)) {
    DieOfBadFree(offset, nbytes);
  }
  if (slab->full()) LinkRoomy(slab);
  slab->Free(slot);
  used_bytes_ -= slab->slot_bytes();
  free_slot_bytes_ += slab->slot_bytes();
  if (slab->used_count() == 0) RemoveSlab(slab);
}

absl::Status BlockAllocator::Reserve(uint64_t offset, uint64_t nbytes) {
  if (allocated_) {
    return absl::FailedPreconditionError(
        absl::StrCat(BlockText(offset, nbytes), ": blocks have been allocated already"));
  }
  if (nbytes == 0) return absl::OkStatus();
  if (nbytes > size_ || BlockBytes(nbytes) > size_ || offset > size_ - BlockBytes(nbytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(BlockText(offset, nbytes), ": outside the segment of ", size_, " bytes"));
  }
  return nbytes <= kMaxSmallBytes ? ReserveSmall(offset, nbytes) : ReserveRange(offset, nbytes);
}

absl::Status BlockAllocator::ReserveSmall(uint64_t offset, uint64_t nbytes) {
  const int size_class = SmallClass(nbytes);
  const uint64_t slot_bytes = SmallClassBytes(size_class);
  const uint64_t base = AlignDown(offset, kSlabBytes);
  const uint64_t slot = (offset - base) / slot_bytes;
  if ((offset - base) % slot_bytes != 0 || slot >= kSlabBytes / slot_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(BlockText(offset, nbytes),
                                                   ": no slot of its class of ", slot_bytes,
                                                   " bytes begins there"));
  }
  Slab* slab;
  if (const auto found = slabs_.find(base / kSlabBytes); found != slabs_.end()) {
    slab = found->second.get();
    if (slab->size_class() != size_class) {
      return absl::AlreadyExistsError(absl::StrCat(BlockText(offset, nbytes), ": its slab at ",
                                                   base, " holds blocks of ", slab->slot_bytes(),
                                                   " bytes, not ", slot_bytes));
    }
    if (slab->IsTaken(static_cast<uint32_t>(slot))) {
      return absl::AlreadyExistsError(
          absl::StrCat(BlockText(offset, nbytes), ": the same block is in use already"));
    }
  } else {
    if (!ranges_.TakeAt(base, kSlabBytes)) {
      return absl::AlreadyExistsError(absl::StrCat(BlockText(offset, nbytes),
                                                   ": the range of its slab at ", base,
                                                   " overlaps another block or the segment's end"));
    }
    slab = AddSlab(base, size_class);
  }
  slab->Take(static_cast<uint32_t>(slot));
  if (slab->full()) UnlinkRoomy(slab);
  used_bytes_ += slot_bytes;
  free_slot_bytes_ -= slot_bytes;
  return absl::OkStatus();
}

absl::Status BlockAllocator::ReserveRange(uint64_t offset, uint64_t nbytes) {
  const uint64_t alignment = RangeAlignment(nbytes), bytes = BlockBytes(nbytes);
  if (offset % alignment != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(BlockText(offset, nbytes), ": the offset is not a multiple of ", alignment));
  }
  if (!ranges_.TakeAt(offset, bytes)) {
    return absl::AlreadyExistsError(
        absl::StrCat(BlockText(offset, nbytes), ": overlaps another block"));
  }
  used_bytes_ += bytes;
  return absl::OkStatus();
}

Slab* BlockAllocator::AddSlab(uint64_t base, int size_class) {
  auto& slab = slabs_[base / kSlabBytes];
  slab = std::make_unique<Slab>(base, size_class);
  free_slot_bytes_ += uint64_t{slab->slot_count()} * slab->slot_bytes();
  LinkRoomy(slab.get());
  return slab.get();
}

void BlockAllocator::RemoveSlab(Slab* slab) {
  UnlinkRoomy(slab);
  free_slot_bytes_ -= uint64_t{slab->slot_count()} * slab->slot_bytes();
  const uint64_t base = slab->base();
  slabs_.erase(base / kSlabBytes);
  ranges_.Give(base, kSlabBytes);
}

// A slab that was full until now goes first: it is the fullest, and the others may become empty.
void BlockAllocator::LinkRoomy(Slab* slab) {
  Slab*& first = roomy_[slab->size_class()];
  slab->previous = nullptr;
  slab->next = first;
  if (first != nullptr) first->previous = slab;
  first = slab;
}

void BlockAllocator::UnlinkRoomy(Slab* slab) {
  if (slab->previous != nullptr) {
    slab->previous->next = slab->next;
  } else {
    roomy_[slab->size_class()] = slab->next;
  }
  if (slab->next != nullptr) slab->next->previous = slab->previous;
}

}  // namespace penstock
