// Quarantine: memory of transfers that are given up, until their lane has let go of it.
//
// A device may still write where it was told to; so a transfer that is over by its deadline, or by a cancel, is not over for its
// memory before the lane's completion has come. Lane::Run waits for that, and counts meanwhile what it waits for.
//
// Threading:  any thread.
// Ownership:  an entry counts as long as it lives.
// Errors:     none.
// Limits:     counts are of the whole process.
#ifndef PENSTOCK_TRANSPORT_LANE_QUARANTINE_H_
#define PENSTOCK_TRANSPORT_LANE_QUARANTINE_H_

#include <atomic>
#include <cstdint>

namespace penstock {

class Quarantine {
 public:
  explicit Quarantine(uint64_t bytes) : bytes_(bytes) {
    now_.fetch_add(bytes);
    ever_.fetch_add(1);
  }
  ~Quarantine() { now_.fetch_sub(bytes_); }
  Quarantine(const Quarantine&) = delete;
  Quarantine& operator=(const Quarantine&) = delete;

  static uint64_t bytes() { return now_.load(); }   // now
  static uint64_t count() { return ever_.load(); }  // entries, ever

 private:
  inline static std::atomic<uint64_t> now_{0};
  inline static std::atomic<uint64_t> ever_{0};
  const uint64_t bytes_;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_LANE_QUARANTINE_H_
