// penstock put: one tensor from a file or from standard input.
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "client/cli/describe.h"
#include "client/cli/import_source.h"
#include "client/cli/invocation.h"
#include "client/cli/put_flags.h"
#include "client/cli/read_input.h"
#include "client/cli/returning.h"
#include "client/cli/terminal.h"
#include "client/cli/verbs/verbs.h"
#include "proto/errors.h"
#include "proto/strcat.h"
#include "transport/copy/copy.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "dtype",
     .value = "DTYPE",
     .help = "FILE is raw elements of this type: f32, bf16, u8, ..."},
    {.name = "shape",
     .value = "DIMS",
     .help = "the shape of raw elements: 1024,768; '' is a scalar"},
    {.name = "tensor", .value = "NAME", .help = "which tensor of a FILE that holds several"},
    kKeepFlag,
    kCacheFlag,
    kSoftPinFlag,
    kTtlFlag,
    {.name = "version", .value = "N", .help = "this version number; larger than the present one"},
    kIfAbsentFlag,
    {.name = "if-version", .value = "N", .help = "only if N is the present version (0: none)"},
    kMetadataFlag,
};

constexpr Example kExamples[] = {
    {"penstock put obs/frame frame.npy --ttl 10m", "a .npy file, gone after ten minutes"},
    {"penstock put noise - --dtype u8 --shape 1024,1024 < /dev/urandom", "raw bytes from a pipe"},
    {"penstock put wte model.safetensors --tensor transformer.wte.weight", "one tensor of a file"},
};

absl::StatusOr<Shape> ParseShape(const std::string& text) {
  std::vector<int64_t> dims;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    int64_t dim = 0;
    const auto [end, error] = std::from_chars(text.data() + begin, text.data() + comma, dim);
    if (error != std::errc() || end != text.data() + comma || dim < 0) {
      return absl::InvalidArgumentError(
          StrCat("--shape: '", text, "' is not allowed; write dimensions such as 1024,768"));
    }
    dims.push_back(dim);
    begin = comma + 1;
  }
  absl::StatusOr<Shape> shape = Shape::Create(dims);
  if (!shape.ok()) return absl::InvalidArgumentError(StrCat("--shape: ", shape.status().message()));
  return shape;
}

struct RawSpec {
  DType dtype;
  Shape shape;
};

absl::StatusOr<RawSpec> ReadRawSpec(const Args& args) {
  if (!args.Has("dtype") || !args.Has("shape")) {
    return absl::InvalidArgumentError("put: raw elements need both --dtype and --shape");
  }
  const absl::StatusOr<DType> dtype = ParseDType(args.Get("dtype"));
  if (!dtype.ok()) {
    return absl::InvalidArgumentError(StrCat("--dtype: ", dtype.status().message()));
  }
  CLI_ASSIGN_OR_RETURN(const Shape shape, ParseShape(args.Get("shape")));
  return RawSpec{*dtype, shape};
}

constexpr int kCopyThreads = 4;

// Raw elements go straight into the store's memory.
absl::StatusOr<TensorInfo> PutRaw(Client& client, const std::string& name, const Args& args,
                                  const PutOptions& options) {
  CLI_ASSIGN_OR_RETURN(const RawSpec spec, ReadRawSpec(args));
  const auto& [dtype, shape] = spec;
  CLI_ASSIGN_OR_RETURN(InputFile input, InputFile::Open(args.positional()[1]));
  CLI_ASSIGN_OR_RETURN(Draft draft, client.Create(name, dtype, shape, options));
  uint64_t read = 0;
  CLI_RETURN_IF_ERROR(Progress::InPieces("putting", draft.nbytes(), [&](uint64_t at, uint64_t bytes) -> absl::Status {
    if (read < at) return absl::OkStatus();  // the input has ended
    CLI_ASSIGN_OR_RETURN(const size_t now, input.Read(static_cast<char*>(draft.data()) + at, bytes));
    read += now;
    return absl::OkStatus();
  }));
  if (read < draft.nbytes()) {
    return absl::InvalidArgumentError(StrCat("put: the input has ", read, " bytes; ",
                                             DTypeName(dtype), " ", shape.ToString(), " has ",
                                             draft.nbytes()));
  }
  char one_more;
  CLI_ASSIGN_OR_RETURN(const size_t more, input.Read(&one_more, 1));
  // /dev/zero and the like never end; a file or a pipe that goes on is most likely a mistake.
  if (more != 0 && !input.is_device()) {
    return absl::InvalidArgumentError(StrCat("put: the input has more than the ", draft.nbytes(),
                                             " bytes of ", DTypeName(dtype), " ",
                                             shape.ToString()));
  }
  return std::move(draft).Publish();
}

absl::StatusOr<TensorInfo> PutNpyInput(Client& client, const std::string& name,
                                       const PutOptions& options) {
  CLI_ASSIGN_OR_RETURN(InputFile input, InputFile::Open("-"));
  CLI_ASSIGN_OR_RETURN(InputFile::Contents contents, input.ReadAll());
  absl::StatusOr<NpyArray> array = NpyArray::Adopt(std::move(contents.bytes), contents.size);
  if (!array.ok()) {
    return absl::InvalidArgumentError(StrCat("put: standard input is no .npy file (",
                                             array.status().message(),
                                             "); raw elements need --dtype and --shape"));
  }
  return client.Put(name, {array->data().data(), array->dtype(), array->shape(), {}}, options);
}

absl::StatusOr<size_t> ChooseTensor(const ImportSource& source, const Args& args) {
  const std::string& file = args.positional()[1];
  if (!args.Has("tensor")) {
    if (source.size() == 1) return size_t{0};
    return absl::InvalidArgumentError(
        StrCat("put: '", file, "' holds ", source.size(),
               " tensors; choose one with --tensor, or take all with `penstock import`"));
  }
  for (size_t i = 0; i < source.size(); ++i) {
    if (source.name(i) == args.Get("tensor")) return i;
  }
  return absl::NotFoundError(StrCat("put: '", file, "' has no tensor '", args.Get("tensor"), "'"));
}

absl::StatusOr<TensorInfo> PutFromFile(Client& client, const std::string& name, const Args& args,
                                       const PutOptions& options) {
  CLI_ASSIGN_OR_RETURN(const std::unique_ptr<ImportSource> source,
                       ImportSource::Open(args.positional()[1]));
  CLI_ASSIGN_OR_RETURN(const size_t chosen, ChooseTensor(*source, args));
  CLI_ASSIGN_OR_RETURN(const LoadedTensor loaded, source->Load(chosen));
  const FileTensor& tensor = loaded.tensor;
  CLI_ASSIGN_OR_RETURN(Draft draft, client.Create(name, tensor.dtype, tensor.shape, options));
  CLI_RETURN_IF_ERROR(Progress::InPieces("putting", draft.nbytes(), [&](uint64_t at, uint64_t bytes) {
    CopyBytesParallel(static_cast<char*>(draft.data()) + at, tensor.data.data() + at, bytes, kCopyThreads);
    return absl::OkStatus();
  }));
  return std::move(draft).Publish();
}

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  const std::string& name = args.positional()[0];
  const bool raw = args.Has("dtype") || args.Has("shape");
  const bool from_stdin = args.positional()[1] == "-";
  CLI_ASSIGN_OR_RETURN(const PutOptions options, ReadPutOptions(args));
  if (raw) CLI_RETURN_IF_ERROR(ReadRawSpec(args).status());
  if (from_stdin && StdinIsTerminal()) {
    return absl::InvalidArgumentError(
        "put: standard input is a terminal; pipe a .npy file into it");
  }
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  const absl::StatusOr<TensorInfo> info = raw          ? PutRaw(*client, name, args, options)
                                          : from_stdin ? PutNpyInput(*client, name, options)
                                                       : PutFromFile(*client, name, args, options);
  if (!info.ok()) return info.status();
  if (invocation.json()) {
    invocation.PrintJson(TensorJson(*info));
  } else {
    invocation.Print(StrCat(TensorLine(*info), "\n"));
  }
  return absl::OkStatus();
}

}  // namespace

const Verb kPut = {
    .name = "put",
    .arguments = "NAME FILE",
    .min_arguments = 2,
    .max_arguments = 2,
    .argument_kind = ArgumentKind::kFile,
    .summary = "store one tensor from a file or a pipe",
    .details =
        "FILE is a .npy file, a .safetensors or .npz file (of one tensor, or with --tensor), or "
        "- for a .npy file on standard input. With --dtype and --shape it is raw elements in C "
        "order, little endian, which are read straight into the store's memory.",
    .json = "the tensor as in `ls`",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
