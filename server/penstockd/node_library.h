// FindNodeLibrary: where libpenstock_node.so is, seen from penstockd.
//
//   build tree        beside penstockd
//   make install      <prefix>/lib (the library folder that this program was configured with)
//   pip install       <venv>/bin/penstockd -> <venv>/lib/python3.*/site-packages/penstock
//
// Threading:  any thread
// Ownership:  copies
// Errors:     none: if there is no such file anywhere, the first place is returned, and loading it
//             gives the error that names it
// Limits:     looks at the file system once
#ifndef PENSTOCK_SERVER_PENSTOCKD_NODE_LIBRARY_H_
#define PENSTOCK_SERVER_PENSTOCKD_NODE_LIBRARY_H_

#include <string>

namespace penstock::server {

std::string FindNodeLibrary(const std::string& executable);

}  // namespace penstock::server

#endif  // PENSTOCK_SERVER_PENSTOCKD_NODE_LIBRARY_H_
