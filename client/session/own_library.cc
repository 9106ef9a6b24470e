#include "client/session/own_library.h"

#include <dlfcn.h>

#include <string>

#include "proto/strcat.h"

namespace penstock::client {

absl::StatusOr<void*> LoadFromOwnLibrary(const char* file, const char* symbol) {
  // Beside this library first: that is where the build and every package put it.
  std::string path = file;
  Dl_info self{};
  if (dladdr(reinterpret_cast<void*>(&LoadFromOwnLibrary), &self) != 0 && self.dli_fname != nullptr) {
    const std::string here = self.dli_fname;
    const size_t slash = here.rfind('/');
    if (slash != std::string::npos) path = StrCat(here.substr(0, slash + 1), path);
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return absl::UnimplementedError(StrCat("needs ", file, ": ", dlerror()));
  void* address = dlsym(library, symbol);
  if (address == nullptr) return absl::InternalError(StrCat(path, " has another version"));
  return address;
}

}  // namespace penstock::client
