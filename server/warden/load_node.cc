#include "server/warden/load_node.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "server/warden/node_abi.h"

namespace penstock::warden {
namespace {

absl::Status WrongKind(const std::string& library, uint64_t abi) {
  if (LayoutOfAbi(abi) != LayoutOfAbi(kNodeAbi)) {
    return absl::FailedPreconditionError(absl::StrCat(
        library, " has memory of layout ", LayoutOfAbi(abi), ", this penstockd of layout ",
        LayoutOfAbi(kNodeAbi), ": it cannot take over what is here; stop penstockd, and start the new one"));
  }
  return absl::FailedPreconditionError(
      absl::StrCat(library, " has interface ", absl::Hex(abi), ", this penstockd has ", absl::Hex(kNodeAbi),
                   ": install both of one version and restart penstockd"));
}

}  // namespace

absl::StatusOr<LoadedNode> LoadNode(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return absl::FailedPreconditionError(dlerror());
  const auto abi = reinterpret_cast<uint64_t (*)()>(dlsym(handle, "penstock_node_abi"));
  const auto entry = reinterpret_cast<int (*)(NodeContext*)>(dlsym(handle, "penstock_node_main"));
  if (abi == nullptr || entry == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(library, " is no node library: ", dlerror()));
  }
  if (abi() != kNodeAbi) return WrongKind(library, abi());
  const auto version = reinterpret_cast<const char* (*)()>(dlsym(handle, "penstock_node_version"));
  if (version == nullptr) return absl::FailedPreconditionError(absl::StrCat(library, " has no version: ", dlerror()));
  return LoadedNode{entry, version()};
}

}  // namespace penstock::warden
