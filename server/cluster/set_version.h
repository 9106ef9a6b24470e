// Versions, as the directory and the other protocols write them.
//
// Threading:  any thread
// Ownership:  none
// Errors:     none
// Limits:     none
#pragma once

#include "server/directory/ids.h"
#include "store.pb.h"

namespace penstock::server {

inline void SetVersion(directory::Version version, v1::TensorInfo* info) {
  info->mutable_version()->set_term(version.term);
  info->mutable_version()->set_number(version.number);
}

}  // namespace penstock::server
