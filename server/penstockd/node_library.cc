#include "server/penstockd/node_library.h"

#include <glob.h>

#include <filesystem>
#include <vector>

namespace penstock::server {
namespace {

constexpr const char* kLibrary = "libpenstock_node.so";

// pip puts programs into <prefix>/bin and the package into one of these.
std::vector<std::string> InPythonPackages(const std::string& prefix) {
  std::vector<std::string> found;
  for (const char* packages :
       {"/lib/python3*/site-packages/penstock/", "/lib64/python3*/site-packages/penstock/",
        "/lib/python3*/dist-packages/penstock/"}) {
    glob_t matches{};
    if (glob((prefix + packages + kLibrary).c_str(), 0, nullptr, &matches) == 0) {
      found.insert(found.end(), matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
    }
    globfree(&matches);
  }
  return found;
}

}  // namespace

std::string FindNodeLibrary(const std::string& executable) {
  namespace fs = std::filesystem;
  const fs::path directory = fs::path(executable).parent_path();
  const fs::path prefix = directory.parent_path();
  std::vector<std::string> places = {directory / kLibrary, prefix / PENSTOCK_LIBDIR / kLibrary,
                                     prefix / "lib" / kLibrary};
  const std::vector<std::string> packages = InPythonPackages(prefix);
  places.insert(places.end(), packages.begin(), packages.end());
  for (const std::string& place : places) {
    std::error_code error;
    if (fs::exists(place, error)) return place;
  }
  return places.front();
}

}  // namespace penstock::server
