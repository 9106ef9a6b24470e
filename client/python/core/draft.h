// penstock.Draft: a tensor that is being written in the store's own memory.
//
// Threading:  with the GIL; one thread at a time fills it.
// Ownership:  arrays made from a draft keep its memory from being used again: the abort, or the end
//             of the published version's block, waits until they are gone.
// Errors:     a draft that was published or aborted raises InvalidArgumentError on further use.
// Limits:     after publish() its arrays still show the bytes, but writing to them faults.
#pragma once

#include <nanobind/nanobind.h>
#include <penstock/client.h>

#include <memory>
#include <string>

namespace penstock::python {

nanobind::object NewDraft(std::shared_ptr<Client> client, std::string name, Draft&& draft);

void AddDraftType(nanobind::module_& module);

}  // namespace penstock::python
