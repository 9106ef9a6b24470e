// Writing safetensors: into a file that appears whole or not at all, or into bytes.
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "client/files/safetensors_writer.h"
#include "client/python/core/incoming.h"
#include "client/python/core/options.h"
#include "client/python/core/store.h"
#include "client/python/core/tensor_file.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;
using nb::literals::operator""_a;

constexpr size_t kPieceBytes = size_t{8} << 20;  // between two looks for Ctrl-C

// The tensors of one file to be.
class Outgoing {
 public:
  // tensors: list of (name, tensor); metadata: dict of str to str, or None
  Outgoing(nb::list tensors, nb::object metadata) : tensors_(tensors.size()), specs_(tensors.size()) {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const nb::tuple pair = nb::cast<nb::tuple>(tensors[i]);
      specs_[i].name = TextArgument(pair[0], "name");
      if (!tensors_[i].Read(nb::object(pair[1]).ptr(), "tensor")) ThrowPythonError();
      const ConstTensorRef ref = tensors_[i].ref();
      specs_[i].dtype = ref.dtype;
      specs_[i].shape = ref.shape;
      if (!tensors_[i].layout().c_contiguous()) {
        ThrowStatus(absl::InvalidArgumentError(StrCat("tensor: \"", specs_[i].name, "\" is not contiguous")));
      }
    }
    std::optional<FileMetadata> file_metadata;
    if (!metadata.is_none()) {
      file_metadata.emplace();
      for (auto [key, value] : nb::cast<nb::dict>(metadata)) {
        file_metadata->emplace(TextArgument(key, "metadata key"), TextArgument(value, "metadata value"));
      }
    }
    absl::StatusOr<SafetensorsPlan> plan =
        PlanSafetensors(specs_, file_metadata.has_value() ? &*file_metadata : nullptr);
    if (!plan.ok()) ThrowStatus(plan.status());
    plan_ = *std::move(plan);
  }

  SafetensorsPlan& plan() { return plan_; }
  absl::Span<const std::byte> bytes(size_t i) const {
    const Layout layout = tensors_[i].layout();
    return {layout.data, static_cast<size_t>(layout.nbytes())};
  }

 private:
  std::vector<Incoming> tensors_;
  std::vector<TensorSpec> specs_;
  SafetensorsPlan plan_;
};

void OrThrow(const absl::Status& status) {
  if (!status.ok()) ThrowStatus(status);
}

// Appends one tensor piece by piece; `advanced`: None, or called with the bytes of each piece.
void AppendTensor(SafetensorsWriter& writer, absl::Span<const std::byte> left, nb::handle advanced) {
  while (!left.empty()) {
    const auto piece = left.first(std::min(kPieceBytes, left.size()));
    absl::Status status;
    {
      WithoutGil without_gil;
      status = writer.Append(piece);
    }
    OrThrow(status);
    left.remove_prefix(piece.size());
    if (PyErr_CheckSignals() != 0) ThrowPythonError();
    if (!advanced.is_none()) advanced(piece.size());
  }
}

void WriteFile(nb::object path_object, nb::list tensors, nb::object metadata, nb::object advanced) {
  const nb::object path = nb::steal(PyUnicode_EncodeFSDefault(path_object.ptr()));
  if (!path.is_valid()) ThrowPythonError();
  Outgoing outgoing(tensors, metadata);
  const std::vector<size_t> order = outgoing.plan().order;
  absl::StatusOr<SafetensorsWriter> writer =
      SafetensorsWriter::Create(PyBytes_AS_STRING(path.ptr()), std::move(outgoing.plan()));
  OrThrow(writer.status());
  for (const size_t i : order) AppendTensor(*writer, outgoing.bytes(i), advanced);
  absl::Status status;
  {
    WithoutGil without_gil;
    status = writer->Finish();
  }
  OrThrow(status);
}

nb::object ToBytes(nb::list tensors, nb::object metadata) {
  Outgoing outgoing(tensors, metadata);
  const SafetensorsPlan& plan = outgoing.plan();
  nb::object bytes = nb::steal(
      PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(plan.head.size() + plan.buffer_bytes)));
  if (!bytes.is_valid()) ThrowPythonError();
  char* to = PyBytes_AS_STRING(bytes.ptr());
  WithoutGil without_gil;
  to = std::copy(plan.head.begin(), plan.head.end(), to);
  for (const size_t i : plan.order) {
    const absl::Span<const std::byte> from = outgoing.bytes(i);
    if (!from.empty()) std::memcpy(to, from.data(), from.size());
    to += from.size();
  }
  return bytes;
}

}  // namespace

void AddSafetensorsWriter(nb::module_& module) {
  module.def("write_safetensors", WriteFile, "path"_a, "tensors"_a, "metadata"_a.none(), "advanced"_a.none(),
             "Writes pairs of name and contiguous tensor as a safetensors file, which appears whole or not at all.\n"
             "metadata: dict of str to str; None leaves it out. advanced: called with the bytes of each piece.");
  module.def("safetensors_bytes", ToBytes, "tensors"_a, "metadata"_a.none(),
             "The bytes that write_safetensors would write.");
}

}  // namespace penstock::python
