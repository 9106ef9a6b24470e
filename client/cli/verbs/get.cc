// penstock get: a tensor, or a box of it, as a .npy file, as raw bytes, or as text.
#include <penstock/box.h>

#include <cerrno>
#include <cstdio>
#include <functional>

#include "client/cli/describe.h"
#include "client/cli/element_text.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/terminal.h"
#include "client/cli/verbs/verbs.h"
#include "client/files/atomic_file.h"
#include "client/files/npy_header.h"
#include "proto/errors.h"
#include "proto/sizes.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "file",
     .letter = 'o',
     .value = "FILE",
     .help = "write a .npy file; - is standard output"},
    {.name = "raw", .help = "write the elements' bytes alone, in C order, without a header"},
    {.name = "box", .value = "INDEX", .help = "a part, as NumPy indexes it: 0:10,:,-1"},
    {.name = "version", .value = "N", .help = "this version [default: the present one]"},
    {.name = "wait", .value = "TIME", .help = "wait for the name to appear [default: do not]"},
    {.name = "values", .value = "N", .fallback = "100", .help = "values in the JSON form, at most"},
};

constexpr Example kExamples[] = {
    {"penstock get model/wte", "what it is, and its first and last values"},
    {"penstock get model/wte -o wte.npy", "a file that np.load reads"},
    {"penstock get model/wte --box 0:10,: | my-program", "ten rows through a pipe, as .npy"},
};

using Sink = std::function<absl::Status(absl::Span<const std::byte>)>;

// What of a pinned tensor was asked for.
struct Part {
  const TensorView* view;
  Box box;
  Shape shape;                   // as the reader sees it: integer indices drop their dimension
  std::vector<int64_t> strides;  // of `shape`, in bytes
  const std::byte* data;
};

absl::StatusOr<Part> SelectPart(const TensorView& view, const Args& args) {
  BoxSelection selection{Box::Whole(view.shape())};
  if (args.Has("box")) {
    if (ItemSize(view.dtype()) == 0) {
      return absl::InvalidArgumentError(StrCat("--box: ", DTypeName(view.dtype()),
                                               " elements are not whole bytes; take it whole"));
    }
    CLI_ASSIGN_OR_RETURN(selection, ParseBox(args.Get("box"), view.shape()));
  }
  Part part{&view, selection.box, selection.result_shape(), {}, view.data()};
  for (int i = 0; i < view.shape().rank(); ++i) {
    const int64_t stride = view.strides()[static_cast<size_t>(i)];
    if (!selection.box.empty()) part.data += selection.box.offset[i] * stride;
    if (!selection.drops(i)) part.strides.push_back(stride);
  }
  return part;
}

absl::Status WritePart(const Part& part, bool raw, const Sink& sink) {
  const TensorView& view = *part.view;
  if (!raw) {
    CLI_ASSIGN_OR_RETURN(const std::string header, FormatNpyHeader(view.dtype(), part.shape));
    CLI_RETURN_IF_ERROR(sink(
        absl::MakeConstSpan(reinterpret_cast<const std::byte*>(header.data()), header.size())));
  }
  if (part.box.IsWhole(view.shape())) return sink(view.bytes());
  absl::Status status;
  ForEachRun(view.shape(), part.box, ItemSize(view.dtype()), [&](uint64_t offset, uint64_t length) {
    if (status.ok()) status = sink({view.data() + offset, length});
  });
  return status;
}

absl::Status WriteStdout(absl::Span<const std::byte> bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size()) return absl::OkStatus();
  return ErrnoStatus(errno, "write to standard output");
}

absl::Status WriteFile(const Part& part, bool raw, const std::string& path) {
  CLI_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  CLI_RETURN_IF_ERROR(WritePart(
      part, raw, [&file](absl::Span<const std::byte> bytes) {
        return Progress::InPieces("writing", bytes.size(), [&](uint64_t at, uint64_t count) { return file.Write(bytes.subspan(at, count)); });
      }));
  return file.Commit();
}

uint64_t PartBytes(const Part& part) {
  if (part.box.IsWhole(part.view->shape())) return part.view->nbytes();
  return static_cast<uint64_t>(part.shape.num_elements()) * ItemSize(part.view->dtype());
}

void PrintText(const Invocation& invocation, const Part& part) {
  const TensorView& view = *part.view;
  invocation.Print(StrCat(Styled(Style::kBold, TensorLine(view.info())), "\n"));
  if (!part.box.IsWhole(view.shape())) {
    invocation.Print(StrCat("box ", part.box.ToString(), "  shape ", part.shape.ToString(), "  ",
                            FormatSize(PartBytes(part)), "\n"));
  }
  if (ItemSize(view.dtype()) == 0) return;  // f6_*: no values to show
  invocation.Print(StrCat(ArrayText(view.dtype(), part.shape, part.strides, part.data), "\n"));
}

absl::Status PrintJsonForm(const Invocation& invocation, const Part& part) {
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> limit, invocation.args().Number("values"));
  const TensorView& view = *part.view;
  Json json = TensorJson(view.info());
  json["box"] = Json::array();
  for (int i = 0; i < part.box.rank(); ++i) {
    json["box"].push_back({part.box.offset[i], part.box.extent[i]});
  }
  json["values"] = Json::array();
  const size_t item_bytes = ItemSize(view.dtype());
  if (item_bytes > 0) {
    ForEachRun(view.shape(), part.box, item_bytes, [&](uint64_t offset, uint64_t length) {
      for (uint64_t i = 0; i < length && json["values"].size() < *limit; i += item_bytes) {
        json["values"].push_back(ElementJson(view.dtype(), view.data() + offset + i));
      }
    });
  }
  json["truncated"] = json["values"].size() < static_cast<uint64_t>(part.shape.num_elements());
  invocation.PrintJson(json);
  return absl::OkStatus();
}

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  const std::string& name = args.positional()[0];
  GetOptions options;
  CLI_ASSIGN_OR_RETURN(options.version, args.Number("version"));
  CLI_ASSIGN_OR_RETURN(options.wait, args.Duration("wait"));
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  CLI_ASSIGN_OR_RETURN(const TensorView view, client->Get(name, options));
  CLI_ASSIGN_OR_RETURN(const Part part, SelectPart(view, args));

  const std::string& path = args.Get("file");
  const bool to_stdout =
      path == "-" ||
      (path.empty() && (args.Has("raw") || (!StdoutIsTerminal() && !args.Has("output"))));
  if (to_stdout) {
    if (StdoutIsTerminal()) {
      return absl::InvalidArgumentError("get: binary data does not go to a terminal; use -o FILE");
    }
    return WritePart(part, args.Has("raw"), WriteStdout);
  }
  if (!path.empty()) {
    CLI_RETURN_IF_ERROR(WriteFile(part, args.Has("raw"), path));
    if (invocation.json()) {
      Json json = TensorJson(view.info());
      json["file"] = path;
      invocation.PrintJson(json);
    } else {
      invocation.Print(StrCat(TensorLine(view.info()), " -> ", path, "\n"));
    }
    return absl::OkStatus();
  }
  if (invocation.json()) return PrintJsonForm(invocation, part);
  PrintText(invocation, part);
  return absl::OkStatus();
}

}  // namespace

const Verb kGet = {
    .name = "get",
    .arguments = "NAME",
    .min_arguments = 1,
    .max_arguments = 1,
    .argument_kind = ArgumentKind::kTensorName,
    .summary = "show a tensor, or write it to a file",
    .details =
        "On a terminal (or with --output) shows what the tensor is and some of its values. With "
        "-o FILE, or when standard output is a pipe or a file, writes a .npy file. -o is the "
        "file here: the format of the text is --output.",
    .json =
        "the tensor as in `ls`, and box: [[offset, extent], ...], values: the first ones in C "
        "order, truncated: whether there are more; with -o FILE: file instead of these",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
