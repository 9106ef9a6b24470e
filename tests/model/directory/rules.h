// The rules of the protocol that can be switched off, one at a time, to see that the model finds out; and the bounds.
#pragma once

#include <string>

namespace model {

struct Rules {
  bool promise = true;           // who has seen a term refuses messages of older ones
  bool backup = true;            // a commit waits for the backup
  bool supersede = true;         // and for the old holders
  bool conditional = true;       // a configuration is activated only while its view is the newest
  bool lease = true;             // a node leaves the view only after its lease
  bool tombstone = true;         // a delete leaves one, and its version when it goes
  bool confirm = true;           // what a node brings back is not served before home has confirmed it
  bool epoch = true;             // home refuses proposals older than a question that it answered with "no"
  bool new_epoch = true;         // proposing again begins a new one: a doubled question is not answered for it
  bool commit_lease = true;      // home commits only while its own lease lasts
  bool order = true;             // Restore and Confirm do not overtake a Supersede
  bool sure_holdings = true;     // a superseded record is no candidate when history is lost
  bool listed = true;            // a writer that is not listed as a holder publishes unconfirmed
  bool once = true;              // a backup takes a term's entries once, and changes in their order
  bool since = true;             // who was out of the view is not a holder any more, though it is back
  bool announce_history = true;  // who has entries of a lost history says so
};

struct Bounds {
  int ops = 2;
  int faults = 2;
  int terms = 3;
  int holders = 6;       // of the first version, a mask
  bool loss = false;     // messages may be lost and doubled (a fault each)
  bool tombstones_go = false;  // when nobody is absent
  unsigned long states = 40'000'000;
};

// nullptr if there is none of that name.
bool* RuleNamed(Rules& rules, const std::string& name);

}  // namespace model
