#include "client/python/core/tensor_file.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/files/file_identity.h"
#include "client/files/safetensors.h"
#include "client/files/sharded_directory.h"
#include "client/python/core/arrays.h"
#include "client/python/core/dlpack_export.h"
#include "client/python/core/info.h"
#include "client/python/core/keeper.h"
#include "client/python/core/options.h"
#include "client/python/core/store.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;
using nb::literals::operator""_a;

nb::object Text(std::string_view text) {
  return nb::steal(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "strict"));
}

void FreeMemory(void* memory) { std::free(memory); }

// One file, the files of a directory, or a file's bytes, as one list of tensors.
class TensorFile {
 public:
  static absl::StatusOr<std::unique_ptr<TensorFile>> Open(const std::string& path) {
    auto result = std::make_unique<TensorFile>();
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
      if (!file.ok()) return file.status();
      result->TakeFile(*std::move(file));
      result->files_ = {path};
      return result;
    }
    absl::StatusOr<ShardedDirectory> directory = ShardedDirectory::Open(path);
    if (!directory.ok()) return directory.status();
    result->directory_ = *std::move(directory);
    for (const ShardTensor& t : result->directory_->tensors()) result->tensors_.push_back(t.tensor);
    for (const std::string& shard : result->directory_->shards()) {
      result->files_.push_back(StrCat(path, "/", shard));
    }
    return result;
  }

  // `owner` keeps `bytes` alive.
  static absl::StatusOr<std::unique_ptr<TensorFile>> Parse(absl::Span<const std::byte> bytes, nb::object owner) {
    absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Parse(bytes);
    if (!file.ok()) return file.status();
    auto result = std::make_unique<TensorFile>();
    result->TakeFile(*std::move(file));
    result->owner_ = std::move(owner);
    return result;
  }

  size_t size() const { return tensors_.size(); }
  const FileTensor& tensor(size_t i) const {
    if (i >= tensors_.size()) {
      ThrowStatus(absl::InvalidArgumentError(StrCat("index: is ", i, "; the file has ", tensors_.size(), " tensors")));
    }
    return *tensors_[i];
  }
  // In which of files() tensor `i` is.
  size_t file_of(size_t i) const { return directory_.has_value() ? directory_->tensors()[i].shard : 0; }
  const std::vector<std::string>& files() const { return files_; }
  const std::string& identity(size_t file) const {
    return directory_.has_value() ? directory_->identity(file) : file_->identity();
  }
  // Null: there is none.
  const FileMetadata* metadata() const {
    if (file_.has_value()) return file_->has_metadata() ? &file_->metadata() : nullptr;
    return directory_->metadata().empty() ? nullptr : &directory_->metadata();
  }

 private:
  void TakeFile(SafetensorsFile file) {
    file_ = std::move(file);
    for (const FileTensor& tensor : file_->tensors()) tensors_.push_back(&tensor);
  }

  std::optional<SafetensorsFile> file_;
  std::optional<ShardedDirectory> directory_;
  nb::object owner_;
  std::vector<const FileTensor*> tensors_;  // in file_ or directory_, which never change
  std::vector<std::string> files_;
};

void OpenFile(TensorFile* self, nb::object path_object) {
  const nb::object bytes = nb::steal(PyUnicode_EncodeFSDefault(path_object.ptr()));
  if (!bytes.is_valid()) ThrowPythonError();
  const std::string path(PyBytes_AS_STRING(bytes.ptr()));
  absl::StatusOr<std::unique_ptr<TensorFile>> file = absl::UnknownError("");
  {
    WithoutGil without_gil;
    file = TensorFile::Open(path);
  }
  if (!file.ok()) ThrowStatus(file.status());
  new (self) TensorFile(std::move(**file));
}

nb::object ParseBytes(nb::bytes data) {
  absl::StatusOr<std::unique_ptr<TensorFile>> file =
      TensorFile::Parse({reinterpret_cast<const std::byte*>(data.c_str()), data.size()}, data);
  if (!file.ok()) ThrowStatus(file.status());
  return nb::cast(file->release(), nb::rv_policy::take_ownership);
}

// The shape that the file has: F4 counts single values there, bytes of two here.
nb::object ShapeInFile(const FileTensor& tensor) {
  nb::list shape;
  for (int i = 0; i < tensor.shape.rank(); ++i) {
    const bool halved = tensor.dtype == DType::kF4E2M1X2 && i + 1 == tensor.shape.rank();
    shape.append(tensor.shape.dim(i) * (halved ? 2 : 1));
  }
  return shape;
}

nb::object Entries(const TensorFile& file) {
  nb::list entries;
  for (size_t i = 0; i < file.size(); ++i) {
    const FileTensor& tensor = file.tensor(i);
    entries.append(nb::make_tuple(Text(tensor.name), Text(TraitsOf(tensor.dtype).safetensors),
                                  ShapeInFile(tensor), tensor.data.size(), file.file_of(i)));
  }
  return entries;
}

nb::object Identities(const TensorFile& file) {
  nb::list identities;
  for (size_t i = 0; i < file.files().size(); ++i) identities.append(Text(file.identity(i)));
  return identities;
}

bool IsUnchanged(const TensorFile& file) {
  for (size_t i = 0; i < file.files().size(); ++i) {
    const absl::StatusOr<std::string> now = FileIdentity(file.files()[i]);
    if (!now.ok() || *now != file.identity(i)) return false;
  }
  return true;
}

nb::object FileMetadataDict(const TensorFile& file) {
  if (file.metadata() == nullptr) return nb::none();
  nb::dict dict;
  for (const auto& [key, value] : *file.metadata()) dict[Text(key)] = Text(value);
  return dict;
}

// A copy in memory of its own, which `make` wraps.
template <class Make>
nb::object Copied(const FileTensor& tensor, Make make) {
  void* memory = std::aligned_alloc(64, (tensor.data.size() / 64 + 1) * 64);
  if (memory == nullptr) {
    PyErr_NoMemory();
    ThrowPythonError();
  }
  {
    WithoutGil without_gil;
    if (!tensor.data.empty()) std::memcpy(memory, tensor.data.data(), tensor.data.size());
  }
  const Strides strides = ContiguousStrides(tensor.dtype, tensor.shape);
  const Layout layout{static_cast<std::byte*>(memory), tensor.shape.dims().data(), strides.data(),
                      tensor.shape.rank(), tensor.dtype};
  nb::object copy = nb::steal(make(layout, memory));
  if (!copy.is_valid()) ThrowPythonError();
  return copy;
}

nb::object ToNumpy(const TensorFile& file, size_t index) {
  return Copied(file.tensor(index), [](const Layout& layout, void* memory) -> PyObject* {
    PyObject* const keeper = NewKeeper(memory, FreeMemory);
    if (keeper == nullptr) return nullptr;
    PyObject* const array = NewArray(layout, ArrayAccess::kWritable);
    if (array == nullptr) {
      Py_DECREF(keeper);
      return nullptr;
    }
    if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array), keeper) == 0) return array;
    Py_DECREF(array);
    return nullptr;
  });
}

nb::object ToTorch(const TensorFile& file, size_t index) {
  return Copied(file.tensor(index), [](const Layout& layout, void* memory) {
    return TorchFromCapsule(MakeCapsule(layout, memory, FreeMemory, {.read_only = false}));
  });
}

// indices: of tensors; names: what each is called in the store -> list of TensorInfo | Error
nb::object PutTensors(const TensorFile& file, const Store& store, nb::list indices, nb::list names,
                      nb::object keep, nb::object ttl, nb::object metadata) {
  const std::shared_ptr<Client> client = store.Use();
  const PutOptions options = ToPutOptions(
      {nb::int_(1), keep, ttl, metadata, nb::none(), nb::bool_(false), nb::none()});
  std::vector<PutRequest> requests(names.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const FileTensor& tensor = file.tensor(nb::cast<size_t>(indices[i]));
    requests[i].name = TextArgument(PyList_GET_ITEM(names.ptr(), static_cast<Py_ssize_t>(i)), "name");
    requests[i].tensor = {tensor.data.data(), tensor.dtype, tensor.shape, {}};
  }
  std::vector<absl::StatusOr<TensorInfo>> infos;
  {
    WithoutGil without_gil;
    infos = client->PutMany(requests, options);
  }
  nb::list results;
  for (size_t i = 0; i < infos.size(); ++i) {
    nb::object item = nb::steal(infos[i].ok() ? NewInfo(*std::move(infos[i]))
                                              : MakeError(infos[i].status(), requests[i].name));
    if (!item.is_valid()) ThrowPythonError();
    results.append(item);
  }
  return results;
}

}  // namespace

void AddTensorFileType(nb::module_& module) {
  nb::class_<TensorFile>(module, "TensorFile", nb::is_final(),
                         "A safetensors file, or a directory of them with or without an index, mapped.")
      .def("__init__", OpenFile, "path"_a)
      .def_static("parse", ParseBytes, "data"_a, "The same of a file's bytes.")
      .def("entries", Entries, "Of each tensor, in the order of the file: name, dtype code, shape in the file, bytes, which file.")
      .def("identities", Identities, "Of each file as it was opened: path, size, time of change and inode.")
      .def("unchanged", IsUnchanged, "Whether the files are still what was opened.")
      .def("metadata", FileMetadataDict, "The files' __metadata__; None if there is none.")
      .def("numpy", ToNumpy, "index"_a, "A copy of tensor `index` of entries(): a writable array.")
      .def("torch", ToTorch, "index"_a, "A copy of tensor `index` of entries(): a torch CPU tensor.")
      .def("put", PutTensors, "store"_a, "indices"_a, "names"_a, nb::kw_only(), "keep"_a, "ttl"_a.none(), "metadata"_a.none(),
           "Puts tensors into a store, straight from the mapped file.");
}

}  // namespace penstock::python
