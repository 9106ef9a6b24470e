// What must hold: a linearizable register with delete, nothing acknowledged lost, one home.
//
// Versions are the witness of the order: a read or an acknowledgement must not be older than what was acknowledged or read
// before it began. Reading costs the protocol nothing and only makes the rest stricter, so every read that a state allows is
// made at once, and two that would answer differently are wrong already.
#pragma once

#include "tests/model/directory/rules.h"
#include "tests/model/directory/state.h"

namespace model {

// Marks `s` as wrong, once.
void Wrong(State& s, const char* why);
// The operation became known to a client under this version.
void Show(State& s, Byte op, Byte version);
// All reads that are possible now, and the other properties of a state.
void Observe(State& s);
// Before node `n` gives up its record.
void BeforeDiscard(State& s, int n);

}  // namespace model
