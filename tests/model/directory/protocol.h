// What nodes do with a message (protocol.cc), and what they and the world do by themselves (steps.cc).
#pragma once

#include <functional>
#include <string>

#include "tests/model/directory/rules.h"
#include "tests/model/directory/state.h"

namespace model {

// Node `n` has seen `term`: it stops being what it was in older ones.
void Learn(State& s, int n, int term);
void StopBeingHome(Node& node);

// false: it waits, nothing changed.
bool Deliver(const Rules& rules, State& s, const Message& message);

// Used by both.
void StartGathering(const Rules& rules, State& s, int home);
void FinishGathering(const Rules& rules, State& s, int home);
void Commit(const Rules& rules, State& s, int home);

using Emit = std::function<void(const std::string& what, const State& next)>;
// `progress`: the step is one that the protocol owes, not a fault or a client's wish.
struct Successors {
  const Rules& rules;
  const Bounds& bounds;
  bool names = false;  // tell what each step was
  int progress = 0;
  Emit emit;
};
void Expand(Successors& out, const State& s);

std::string Tell(const State& s, const Message& message);
std::string Tell(const State& s);

}  // namespace model
