// Fault points: named places where a test makes the process die or stop.
//
//   PENSTOCK_FAULT_POINT("node.publish.before");
//
// Compiled in only with -DPENSTOCK_FAULT_POINTS=ON (tests). A file <$PENSTOCK_FAULT_DIR>/<name> arms a point: the
// process that reaches it removes the file (so that it happens once) and is killed, or stopped when the file says "stop".
//
// Threading:  any thread
// Ownership:  none
// Errors:     none; the process ends
// Limits:     one open() a pass when the directory is set, one load when it is not.
#pragma once

#ifdef PENSTOCK_FAULT_POINTS
namespace penstock {
extern const bool kFaultDirectorySet;
void ReachFaultPoint(const char* name);
}  // namespace penstock
#define PENSTOCK_FAULT_POINT(name) \
  (::penstock::kFaultDirectorySet ? ::penstock::ReachFaultPoint(name) : (void)0)
#else
#define PENSTOCK_FAULT_POINT(name) ((void)0)
#endif
