#include "client/cli/describe.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include "absl/strings/str_format.h"
#include "proto/sizes.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

Json FieldJson(const Message& message, const Reflection& reflection, const FieldDescriptor* field) {
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.GetUInt64(message, field);
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection.GetUInt32(message, field);
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.GetInt64(message, field);
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.GetInt32(message, field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(message, field);
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.GetString(message, field);
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      const Message& inner = reflection.GetMessage(message, field);
      // A version is a number to everybody who has one node.
      if (inner.GetDescriptor()->name() == "Version") {
        return inner.GetReflection()->GetUInt64(inner,
                                                inner.GetDescriptor()->FindFieldByName("number"));
      }
      return MessageJson(inner);
    }
    default:
      return nullptr;  // store.proto has no such fields in what the command line prints
  }
}

}  // namespace

std::string TimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E9SZ", time, absl::UTCTimeZone());
}

std::string ShortTimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", time, absl::LocalTimeZone());
}

std::string VersionText(Version version) {
  return StrCat(version.number);
}

std::string AgeText(absl::Duration age) {
  const int64_t seconds = absl::ToInt64Seconds(age);
  if (seconds < 0) return "0s";
  if (seconds < 120) return StrCat(seconds, "s");
  if (seconds < 2 * 3600) return StrCat(seconds / 60, "m");
  if (seconds < 2 * 86400) return StrCat(seconds / 3600, "h");
  return StrCat(seconds / 86400, "d");
}

std::string Crc32cText(uint32_t crc32c) { return absl::StrFormat("%08x", crc32c); }

std::string ClassWord(const TensorInfo& info) {
  if (info.spilled) return "spilled";
  return info.keep ? "keep" : info.soft_pin ? "cache+pin" : "cache";
}

std::string ClassText(const TensorInfo& info) {
  if (info.spilled) return "keep (spilled: its bytes lie on the node's disk)";
  if (info.keep) return "keep (never evicted)";
  return info.soft_pin ? "cache (evicted after all that have no soft pin)" : "cache (may be evicted)";
}

Json TensorJson(const TensorInfo& info) {
  Json json;
  json["name"] = info.name;
  json["version"] = info.version.number;
  json["term"] = info.version.term;
  json["dtype"] = DTypeName(info.dtype);
  json["shape"] = Json::array();
  for (const int64_t dim : info.shape.dims()) json["shape"].push_back(dim);
  json["nbytes"] = info.nbytes;
  json["created"] = TimeText(info.created);
  json["keep"] = info.keep;
  json["soft_pin"] = info.soft_pin;
  json["spilled"] = info.spilled;
  json["expires"] = info.expires.has_value() ? Json(TimeText(*info.expires)) : Json(nullptr);
  json["replicas"] = info.replicas;
  json["nodes"] = info.nodes;
  json["metadata"] = Json::object();
  for (const auto& [key, value] : info.metadata) json["metadata"][key] = value;
  json["immutable"] = info.immutable;
  json["crc32c"] = info.crc32c ? Json(Crc32cText(*info.crc32c)) : Json(nullptr);
  return json;
}

Json EventJson(const TensorEvent& event) {
  Json json;
  json["kind"] = EventKindName(event.kind);
  json["sequence"] = event.sequence;
  json["time"] = TimeText(event.time);
  json["name"] = event.info.name;
  json["version"] = event.info.version.number;
  json["text"] = event.text;
  json["info"] = event.kind == TensorEvent::Kind::kPut ? TensorJson(event.info) : Json(nullptr);
  return json;
}

std::string TensorLine(const TensorInfo& info) {
  return StrCat(info.name, "  version ", VersionText(info.version), "  ", DTypeName(info.dtype),
                " ", info.shape.ToString(), "  ", FormatSize(info.nbytes));
}

Json MessageJson(const Message& message) {
  const Reflection& reflection = *message.GetReflection();
  Json json = Json::object();
  const auto* descriptor = message.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (!field->is_repeated()) {
      json[field->name()] = FieldJson(message, reflection, field);
      continue;
    }
    // Of texts and of messages: the messages that are printed have no other lists.
    Json& list = json[field->name()] = Json::array();
    for (int k = 0; k < reflection.FieldSize(message, field); ++k) {
      list.push_back(field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE
                         ? MessageJson(reflection.GetRepeatedMessage(message, field, k))
                         : Json(reflection.GetRepeatedString(message, field, k)));
    }
  }
  return json;
}

}  // namespace penstock::cli
