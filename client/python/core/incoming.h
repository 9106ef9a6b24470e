// Arrays of users on their way in: what put() takes as a tensor, and get(out=) as a destination.
//
// NumPy arrays and our own views are read directly; torch and everything else with __dlpack__ goes
// through DLPack; then the buffer protocol, __array_interface__ and __array__; Python scalars and
// lists through np.asarray.
//
// Threading:  made and destroyed with the GIL; what it points at may be read without it.
// Ownership:  keeps what it needs of the source alive while it lives.
// Errors:     Python exceptions: TypeError for what is no array, InvalidArgumentError for arrays
// that
//             cannot be tensors.
// Limits:     host memory only; no copy, except for sources that NumPy itself has to convert.
#pragma once

#include <penstock/client.h>

#include "client/python/core/dlpack.h"
#include "client/python/core/layout.h"
#include "client/python/core/numpy_api.h"
#include "client/python/core/owned.h"

namespace penstock::python {

class Incoming {
 public:
  Incoming() = default;
  ~Incoming();
  Incoming(Incoming&& other) noexcept;
  Incoming& operator=(Incoming&&) = delete;
  Incoming(const Incoming&) = delete;

  // Once, on a fresh object. `field` begins the error texts ("tensor", "out"). False with a Python
  // error set.
  bool Read(PyObject* object, const char* field);

  Layout layout() const;
  bool writable() const { return writable_; }
  ConstTensorRef ref() const;

 private:
  bool ReadArray(PyArrayObject* array, const char* field);
  bool ReadDLPack(PyObject* object, const char* field);
  bool ReadTensor(const DLTensor& tensor, const char* field);
  bool ReadConverted(PyObject* object, const char* field);  // by NumPy, over the same memory
  bool ReadCopied(PyObject* object, const char* field);     // by NumPy, over memory of its own
  bool SetGeometry(int rank, const int64_t* shape, const char* field);

  const void* data_ = nullptr;
  DType dtype_ = DType::kInvalid;
  Shape shape_;
  Strides strides_;  // bytes
  bool writable_ = false;
  Owned source_;
  DLManagedTensor* legacy_ = nullptr;
  DLManagedTensorVersioned* versioned_ = nullptr;
};

}  // namespace penstock::python
