// Questions to the node whose answers become dictionaries: df, sessions, pins, node_info.
//
// The answers are read through protobuf's descriptors, which the client library registers: so there
// is no second list of their fields here.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <memory>
#include <string>
#include <string_view>

#include "client/python/core/options.h"
#include "client/python/core/store.h"
#include "proto/rpc_methods.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;
namespace pb = google::protobuf;
using nb::literals::operator""_a;

struct Question {
  std::string_view name;  // of the message: <name>Response
  rpc::Method method;
};
constexpr Question kQuestions[] = {
    {"Df", rpc::Method::kDf},
    {"Sessions", rpc::Method::kSessions},
    {"Pins", rpc::Method::kPins},
    {"NodeInfo", rpc::Method::kNodeInfo},
};

nb::object ToDict(const pb::Message& message);

// One value of a field; `index` < 0 for fields that are not repeated.
nb::object ToValue(const pb::Message& message, const pb::FieldDescriptor* field, int index) {
  const pb::Reflection* reflection = message.GetReflection();
  const bool one = index < 0;
  switch (field->cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_UINT64:
      return nb::int_(one ? reflection->GetUInt64(message, field)
                          : reflection->GetRepeatedUInt64(message, field, index));
    case pb::FieldDescriptor::CPPTYPE_UINT32:
      return nb::int_(one ? reflection->GetUInt32(message, field)
                          : reflection->GetRepeatedUInt32(message, field, index));
    case pb::FieldDescriptor::CPPTYPE_INT64:
      return nb::int_(one ? reflection->GetInt64(message, field)
                          : reflection->GetRepeatedInt64(message, field, index));
    case pb::FieldDescriptor::CPPTYPE_BOOL:
      return nb::bool_(one ? reflection->GetBool(message, field)
                           : reflection->GetRepeatedBool(message, field, index));
    case pb::FieldDescriptor::CPPTYPE_STRING: {
      const std::string text = one ? reflection->GetString(message, field)
                                   : reflection->GetRepeatedString(message, field, index);
      return nb::steal(
          PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
    }
    case pb::FieldDescriptor::CPPTYPE_MESSAGE:
      return ToDict(one ? reflection->GetMessage(message, field)
                        : reflection->GetRepeatedMessage(message, field, index));
    default:
      return nb::none();  // kinds that store.proto does not use in these messages
  }
}

nb::object ToDict(const pb::Message& message) {
  nb::dict dict;
  const pb::Descriptor* type = message.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const pb::FieldDescriptor* field = type->field(i);
    nb::object value;
    if (field->is_repeated()) {
      nb::list list;
      const int count = message.GetReflection()->FieldSize(message, field);
      for (int k = 0; k < count; ++k) list.append(ToValue(message, field, k));
      value = list;
    } else {
      value = ToValue(message, field, -1);
    }
    dict[field->name().c_str()] = value;
  }
  return dict;
}

nb::object Ask(const Store& store, nb::object name_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "question");
  for (const Question& question : kQuestions) {
    if (question.name != name) continue;
    const pb::Descriptor* type = pb::DescriptorPool::generated_pool()->FindMessageTypeByName(
        StrCat("penstock.v1.", name, "Response"));
    if (type == nullptr) ThrowStatus(absl::InternalError(StrCat("no message for ", name)));
    absl::StatusOr<std::string> response = absl::UnknownError("");
    {
      WithoutGil without_gil;
      response = client->Call(static_cast<uint32_t>(question.method), "");
    }
    if (!response.ok()) ThrowStatus(response.status());
    const std::unique_ptr<pb::Message> message(
        pb::MessageFactory::generated_factory()->GetPrototype(type)->New());
    if (!message->ParseFromString(*response)) {
      ThrowStatus(absl::InternalError(StrCat("the node's answer to ", name, " cannot be read")));
    }
    return ToDict(*message);
  }
  ThrowStatus(absl::InvalidArgumentError(StrCat("question: \"", name, "\" is not known")));
}

}  // namespace

void AddStoreCalls(StoreClass& type) { type.def("_ask", Ask, "question"_a); }

}  // namespace penstock::python
