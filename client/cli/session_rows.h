// The table of sessions that `sessions` and `top` show.
//
// Threading:  one thread.
// Ownership:  returns a table to print.
// Errors:     none.
// Limits:     none.
#ifndef PENSTOCK_CLIENT_CLI_SESSION_ROWS_H_
#define PENSTOCK_CLIENT_CLI_SESSION_ROWS_H_

#include <cstdint>
#include <map>

#include "client/cli/table.h"
#include "store.pb.h"

namespace penstock::cli {

// `requests_per_second`: by session id; null: the total number of requests is shown.
Table SessionTable(const v1::SessionsResponse& sessions,
                   const std::map<uint64_t, double>* requests_per_second);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_SESSION_ROWS_H_
