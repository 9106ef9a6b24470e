// A SIGSEGV handler that explains a write to tensor memory.
//
// Tensors are mapped read-only, so a stray write (a C extension, a framework without read-only
// arrays, an array of a published draft) ends in SIGSEGV. This handler says so on standard error,
// then hands the fault to whatever handler was there before (Python's faulthandler, or the
// default).
//
// Threading:  InstallFaultMessages: any thread. The handler runs in the thread that faulted.
// Ownership:  stays installed until the process ends; the alternate stack is per thread, and only
// the
//             calling thread gets one.
// Errors:     errno as Status.
// Limits:     only async-signal-safe calls: it reads /proc/self/maps to know whose memory it was.
#pragma once

#include "absl/status/status.h"

namespace penstock::python {

absl::Status InstallFaultMessages();  // idempotent

}  // namespace penstock::python
