// LoadFromOwnLibrary: parts of the client that most processes never need, in libraries that are loaded when one is.
//
// Threading:  any thread
// Ownership:  a library stays loaded
// Errors:     UNIMPLEMENTED it is not installed; INTERNAL it is of another version
// Limits:     its symbols are seen by nobody else (RTLD_LOCAL)
#ifndef PENSTOCK_CLIENT_SESSION_OWN_LIBRARY_H_
#define PENSTOCK_CLIENT_SESSION_OWN_LIBRARY_H_

#include "absl/status/statusor.h"

namespace penstock::client {

// The address of `symbol` in `file`, which lies beside this library, or where the loader looks.
absl::StatusOr<void*> LoadFromOwnLibrary(const char* file, const char* symbol);

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_OWN_LIBRARY_H_
