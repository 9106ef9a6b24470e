// IndexTensor: a message kept in one internal tensor and changed by compare-and-swap of its version, so that what several sessions do
// at once happens one after the other.
//
// Threading:  any thread, but one at a time for what is bound (InternalNames)
// Ownership:  keeps the connection alive
// Errors:     DataLoss (the tensor cannot be read as such a message), what the change says, and Client's
// Limits:     a change is a get and a put; repeated while others change it, too
#ifndef PENSTOCK_CLIENT_INDEX_TENSOR_H_
#define PENSTOCK_CLIENT_INDEX_TENSOR_H_

#include <functional>
#include <string>
#include <utility>

#include "client/internal_names.h"
#include "proto/strcat.h"

namespace penstock::client {

template <class Message>
class IndexTensor {
 public:
  // `what`: for errors: "snapshots of 'ckpt'".
  IndexTensor(const Client& client, std::string name, std::string what) : name_(std::move(name)), what_(std::move(what)), names_(client) {}

  InternalNames& names() { return names_; }
  const std::string& name() const { return name_; }

  struct Present {
    Message index;
    uint64_t version = 0;  // 0: there is none
  };
  absl::StatusOr<Present> Read() {
    const absl::StatusOr<InternalNames::Text> text = names_.ReadText(name_);
    if (!text.ok()) return text.status();
    Present present{.index = {}, .version = text->version};
    if (present.index.ParseFromString(text->text)) return present;
    return absl::DataLossError(StrCat(what_, ": their index (", name_, ", version ", text->version, ") cannot be read"));
  }

  // Reads, changes, writes, until nobody came between. An error of `change` ends it.
  using Change = std::function<absl::Status(Message& index)>;
  absl::Status Update(const Change& change) {
    return Swap(change, [this](const std::string& text, uint64_t version) {
      return names_.PutText(name_, text, layout::Purpose::kInternal, version).status();
    });
  }
  // The same; `write` puts the text if the version is the present one, else Aborted.
  using Write = std::function<absl::Status(const std::string& text, uint64_t version)>;
  absl::Status Swap(const Change& change, const Write& write) {
    absl::Status written;
    for (int i = 0; i < kMostSwaps; ++i) {
      absl::StatusOr<Present> present = Read();
      if (!present.ok()) return present.status();
      if (absl::Status s = change(present->index); !s.ok()) return s;
      written = write(present->index.SerializeAsString(), present->version);
      if (!absl::IsAborted(written)) return written;
      // Aborted: somebody else was faster, or it is not about the version at all.
      const absl::StatusOr<Present> now = Read();
      if (now.ok() && now->version == present->version) return written;
    }
    return written;
  }

  // An index that tells of nothing is none: it goes.
  void DeleteIfEmpty() {
    const absl::StatusOr<Present> present = Read();
    if (present.ok() && present->version != 0 && present->index.ByteSizeLong() == 0) names_.DeleteVersion(name_, present->version);
  }

 private:
  static constexpr int kMostSwaps = 1000;  // each failed one is a success of somebody else's

  const std::string name_;
  const std::string what_;
  InternalNames names_;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_INDEX_TENSOR_H_
