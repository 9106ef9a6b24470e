// penstock export: the tensors under a prefix into one file.
#include <filesystem>
#include <vector>

#include "client/cli/describe.h"
#include "client/cli/import_job.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/terminal.h"
#include "client/cli/verbs/verbs.h"
#include "client/files/npz_writer.h"
#include "client/files/safetensors_writer.h"
#include "proto/sizes.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

// Written in pieces, so that the bar moves and no piece is held back for long.
constexpr size_t kPieceBytes = size_t{8} << 20;

constexpr FlagSpec kFlags[] = {
    {.name = "file", .letter = 'o', .value = "FILE", .help = "the file, instead of as an argument"},
    {.name = "full-names", .help = "keep PREFIX in the names inside the file"},
    {.name = "metadata",
     .letter = 'm',
     .value = "KEY=VALUE",
     .help = "into the safetensors file's own metadata",
     .repeated = true},
};

constexpr Example kExamples[] = {
    {"penstock export minilm minilm.safetensors", "minilm/T becomes tensor T of the file"},
    {"penstock export data arrays.npz", "for np.load"},
    {"penstock export '' everything.safetensors", "the whole store"},
};

struct Exported {
  std::string name;  // in the file
  TensorView view;   // pinned, so that the file shows each tensor as it was when it was listed
};

struct Export {
  std::vector<Exported> tensors;
  FileMetadata metadata;
  uint64_t bytes = 0;
};

void TakeFileMetadata(const TensorInfo& info, FileMetadata* metadata) {
  for (const auto& [key, value] : info.metadata) {
    if (key.compare(0, kFileMetadataPrefix.size(), kFileMetadataPrefix) == 0) {
      metadata->emplace(key.substr(kFileMetadataPrefix.size()), value);
    }
  }
}

absl::Status Take(Client& client, const TensorInfo& info, std::string name, Export* taken) {
  CLI_ASSIGN_OR_RETURN(TensorView view, client.Get(info.name));
  TakeFileMetadata(view.info(), &taken->metadata);
  taken->bytes += view.nbytes();
  taken->tensors.push_back({std::move(name), std::move(view)});
  return absl::OkStatus();
}

absl::StatusOr<Export> TakeAll(Client& client, const std::string& prefix, bool full_names) {
  const std::string folder = prefix.empty() || prefix.back() == '/' ? prefix : prefix + "/";
  Export taken;
  ListPage page;
  std::string after;
  do {
    CLI_ASSIGN_OR_RETURN(page, client.List(folder, after));
    for (const TensorInfo& info : page.items) {
      after = info.name;
      const absl::Status status =
          Take(client, info, full_names ? info.name : info.name.substr(folder.size()), &taken);
      // Deleted since it was listed: then it is not part of what is exported.
      if (!status.ok() && !absl::IsNotFound(status)) return status;
    }
  } while (page.more && !page.items.empty());
  if (!taken.tensors.empty()) return taken;
  if (folder.empty()) return absl::NotFoundError("export: the store is empty");
  const absl::StatusOr<TensorInfo> one = client.Stat(prefix);
  if (!one.ok()) {
    return absl::NotFoundError(
        StrCat("export: there is no tensor '", prefix, "' or under '", folder, "'"));
  }
  const size_t slash = prefix.rfind('/');
  CLI_RETURN_IF_ERROR(
      Take(client, *one,
           full_names || slash == std::string::npos ? prefix : prefix.substr(slash + 1), &taken));
  return taken;
}

absl::Status WriteSafetensorsFile(const Export& taken, const std::string& path,
                                  Progress& progress) {
  std::vector<TensorSpec> specs;
  for (const Exported& tensor : taken.tensors) {
    specs.push_back({tensor.name, tensor.view.dtype(), tensor.view.shape()});
  }
  CLI_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                       SafetensorsWriter::Create(path, specs, taken.metadata));
  for (const size_t i : writer.order()) {
    absl::Span<const std::byte> left = taken.tensors[i].view.bytes();
    while (!left.empty()) {
      const auto piece = left.first(std::min(kPieceBytes, left.size()));
      CLI_RETURN_IF_ERROR(writer.Append(piece));
      progress.Advance(piece.size());
      left.remove_prefix(piece.size());
    }
  }
  return writer.Finish();
}

absl::Status WriteNpzFile(const Export& taken, const std::string& path, Progress& progress) {
  CLI_ASSIGN_OR_RETURN(NpzWriter writer, NpzWriter::Create(path));
  for (const Exported& tensor : taken.tensors) {
    CLI_RETURN_IF_ERROR(
        writer.Add(tensor.name, tensor.view.dtype(), tensor.view.shape(), tensor.view.bytes()));
    progress.Advance(tensor.view.nbytes());
  }
  return writer.Finish();
}

absl::StatusOr<std::string> FileArgument(const Args& args) {
  const bool as_argument = args.positional().size() == 2;
  if (as_argument == args.Has("file")) {
    return absl::InvalidArgumentError("export: write the file once, as an argument or with -o");
  }
  return as_argument ? args.positional()[1] : args.Get("file");
}

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  CLI_ASSIGN_OR_RETURN(const std::string path, FileArgument(args));
  const std::string kind = std::filesystem::path(path).extension().string();
  if (kind != ".safetensors" && kind != ".npz") {
    return absl::InvalidArgumentError(
        StrCat("export: '", path, "' is not allowed; the file must end in .safetensors or .npz"));
  }
  FileMetadata given;
  for (const std::string& item : args.All("metadata")) {
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0 || kind == ".npz") {
      return absl::InvalidArgumentError(StrCat(
          "--metadata: '", item, "' is not allowed; write KEY=VALUE, for .safetensors only"));
    }
    given[item.substr(0, equals)] = item.substr(equals + 1);
  }
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  CLI_ASSIGN_OR_RETURN(Export taken,
                       TakeAll(*client, args.positional()[0], args.Has("full-names")));
  for (const auto& [key, value] : given) taken.metadata[key] = value;

  const absl::Time begin = absl::Now();
  {
    Progress progress("exporting", taken.bytes);
    CLI_RETURN_IF_ERROR(kind == ".npz" ? WriteNpzFile(taken, path, progress)
                                       : WriteSafetensorsFile(taken, path, progress));
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  if (invocation.json()) {
    invocation.PrintJson({{"file", path},
                          {"tensors", taken.tensors.size()},
                          {"bytes", taken.bytes},
                          {"seconds", seconds}});
  } else {
    invocation.Print(StrCat(taken.tensors.size(),
                            taken.tensors.size() == 1 ? " tensor, " : " tensors, ",
                            FormatSize(taken.bytes), " -> ", path, "\n"));
  }
  return absl::OkStatus();
}

}  // namespace

const Verb kExport = {
    .name = "export",
    .arguments = "PREFIX FILE",
    .min_arguments = 1,
    .max_arguments = 2,
    .argument_kind = ArgumentKind::kTensorName,
    .summary = "write tensors to a .safetensors or .npz file",
    .details =
        "Writes every tensor under PREFIX/ to FILE, without the prefix in the names, so that "
        "import --prefix and export are each other's inverse. The tensors are pinned while it "
        "writes; the file appears whole or not at all. Metadata that import kept comes back. -o "
        "is the file here: the format of the text is --output.",
    .json = "{file, tensors, bytes, seconds}",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
