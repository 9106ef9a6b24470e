#include "client/cli/session_rows.h"

#include "absl/time/clock.h"
#include "client/cli/describe.h"
#include "proto/sizes.h"
#include "proto/strcat.h"

namespace penstock::cli {

Table SessionTable(const v1::SessionsResponse& sessions,
                   const std::map<uint64_t, double>* requests_per_second) {
  using Align = Table::Align;
  Table table({{"SESSION", Align::kRight},
               {"PID", Align::kRight},
               {"UID", Align::kRight},
               {"AGE", Align::kRight},
               {"PINS", Align::kRight},
               {"DRAFTS", Align::kRight},
               {"EXTENTS", Align::kRight},
               {"HELD BACK", Align::kRight},
               {requests_per_second == nullptr ? "REQUESTS" : "REQUESTS/S", Align::kRight},
               {"LABEL"}});
  for (const v1::SessionInfo& session : sessions.sessions()) {
    uint64_t requests = session.requests();
    if (requests_per_second != nullptr) {
      const auto rate = requests_per_second->find(session.id());
      requests = rate == requests_per_second->end() ? 0 : static_cast<uint64_t>(rate->second + 0.5);
    }
    const absl::Time opened = absl::FromUnixNanos(static_cast<int64_t>(session.opened_ns()));
    table.Add({StrCat(session.id()), StrCat(session.pid()), StrCat(session.uid()),
               AgeText(absl::Now() - opened), StrCat(session.pins()), StrCat(session.drafts()),
               FormatSize(session.extent_bytes()), FormatSize(session.pinned_retired_bytes()),
               StrCat(requests), session.label()});
  }
  return table;
}

}  // namespace penstock::cli
