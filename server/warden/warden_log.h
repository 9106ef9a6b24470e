// LogLine: one line of the warden on standard error.
//
// Threading:  any thread; one write(2) a line, so lines of warden and node do not mix
// Ownership:  none
// Errors:     a line that cannot be written is lost
// Limits:     for what an operator must know (a death, a fallback), not for the run of things
#ifndef PENSTOCK_SERVER_WARDEN_WARDEN_LOG_H_
#define PENSTOCK_SERVER_WARDEN_WARDEN_LOG_H_

#include <string>

namespace penstock::warden {

void LogLine(const std::string& text);

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_WARDEN_LOG_H_
