// Messages under way: a bag, delivered in any order; what is not delivered yet may come at any later time, or never.
#pragma once

#include "tests/model/directory/rules.h"
#include "tests/model/directory/state.h"

namespace model {

void Send(State& s, const Message& message);
bool UnderWay(const State& s, Byte type, int to, int from);
// Takes out what cannot have an effect any more, and orders the rest: equal states become equal bytes.
void Tidy(const Rules& rules, State& s);

}  // namespace model
