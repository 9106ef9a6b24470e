// Memory of ours as a DLPack capsule.
//
// Threading:  MakeCapsule: with the GIL. The deleter runs on any thread, without the GIL, even
// after
//             the interpreter is gone.
// Ownership:  the capsule holds `owner` (a share that `drop` gives back) until its consumer is
// done. Errors:     BufferError for dtypes without whole bytes. Limits:     one allocation.
#pragma once

#include "client/python/core/keeper.h"
#include "client/python/core/layout.h"
#include "client/python/core/numpy_api.h"

namespace penstock::python {

struct CapsuleOptions {
  bool versioned = false;  // false: legacy "dltensor", which knows no flags
  bool read_only = true;
  bool is_copy = false;
};

// Steals the share, in the case of an error too. Null with a Python error set.
PyObject* MakeCapsule(const Layout& layout, void* owner, DropFunction drop,
                      const CapsuleOptions& options);

// A capsule over a fresh copy of the elements (64-byte aligned memory of its own).
PyObject* MakeCopyCapsule(const Layout& layout, bool versioned);

// torch.from_dlpack(capsule), without its copies and checks of devices. Steals the capsule, which
// may be null with a Python error set.
PyObject* TorchFromCapsule(PyObject* capsule);

}  // namespace penstock::python
