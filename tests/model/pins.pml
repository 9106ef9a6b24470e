/* The pin protocol (DESIGN.md section 3, proto/layout/catalog_layout.h), small enough to be checked exhaustively.
 *
 * One node publishes, overwrites, deletes, replaces the index, scans the pin tables, frees and reuses record slots, and
 * may be killed between any two steps; the next node works on from shared memory alone. Readers follow the index, pin,
 * verify and read, and may be killed between any two steps. Every shared access is one step: sequential consistency,
 * which is what seq_cst on all of these words gives.
 *
 * Checked: what a reader sees under a pin is the tensor that it asked for, whole, until it unpins (the asserts in
 * read_body); nobody waits for ever (spin's invalid end states); when all readers are gone, every record is free or
 * live (the asserts at the end of node).
 *
 * Steps that touch only what no other process reads (the record's state and version, free lists) are taken together.
 *
 * Shapes:   default two readers; READER_DEATH, NODE_DEATH one reader, and that process is killed at any step (a kill
 *           after its end is the run without one); FORK a reader that forks with its view; COPY_CHECKED a view that is
 *           moved to another pin. Broken on purpose, each must be found wrong by tests/model/run: NO_RELOAD NAME_BEFORE_PIN
 *           SCAN_BEFORE_RETIRE FREE_WITHOUT_SCAN LOST_SESSION CLOSE_LIVE COPY_PIN FORK_EARLY_UNPIN
 *           FORGET_RETIRED
 */
#ifndef OPS
#define OPS 5     /* what the node does before it waits for the readers' end */
#endif
#ifndef NREC
#define NREC 2    /* record slots; a block lives and dies with its record */
#endif
#define NNAMES 2
#define NTABLES 3 /* the first index, a replaced one, and the one that a new node makes */
#define FRESH (NTABLES - 1)
#define NPINS 2   /* pin tables of one word; table 1 is the second reader, the forked child, or the second pin */

#define FREE 0
#define LIVE 1
#define RETIRED 2
#define PUBLISHING 3

#define ODD(s) ((s) & 1)
#define WORD(r, s) ((s) * 4 + (r) + 1)           /* pin word: record and sequence; 0 = no pin */
#define BODY(n, s) ((s) * 2 + (n) + 1)           /* what the block of this publish holds */

/* Shared memory. */
byte seq[NREC]; byte name[NREC]; byte body[NREC]; byte state[NREC]; byte version[NREC];
byte index[NTABLES * NNAMES]; /* record + 1 */
byte table;                   /* the header's index segment */
byte pin[NPINS];

/* Sockets and processes. */
bool registered[NPINS]; /* the node scans this table */
bool hung_up[NPINS];    /* end-of-file */
bool kill_reader, kill_node;
byte readers_left = 0;
bool fork_asked, fork_done;

byte next_version = 1;
byte ops = OPS;         /* left for all nodes together */

/* ---- readers ---- */

inline read_body(r, n, q) {
  assert(name[r] == n);
  assert(body[r] == BODY(n, q));
  assert(body[r] == BODY(n, q)) /* and later still */
}

inline get(me, n) {
  t = table;
  r = index[t * NNAMES + n];
  if
  :: r == 0 -> skip
  :: else ->
    r = r - 1;
#ifdef NAME_BEFORE_PIN
    found = (name[r] == n);
#endif
    q = seq[r];
    if
    :: !ODD(q) -> skip
    :: else ->
      pin[me] = WORD(r, q);
#ifdef NO_RELOAD
      skip;
#else
      ok = (seq[r] == q);
#endif
#ifdef NAME_BEFORE_PIN
      ok = ok && found;
#else
      if
      :: ok -> ok = (name[r] == n)
      :: else -> skip
      fi;
#endif
      if
      :: !ok -> pin[me] = 0
      :: else -> pinned = true
      fi
    fi
  fi
}

proctype reader(byte me; byte n) {
  byte t, r, q;
  bool ok = true, pinned = false;
#ifdef NAME_BEFORE_PIN
  bool found;
#endif
  {
    get(me, n);
    if
    :: pinned ->
#if defined(COPY_PIN) || defined(COPY_CHECKED)
      /* The view moves from pin 0 to pin 1 of its table, which a scan reads in the other order. */
      pin[1] = pin[0];
#ifdef COPY_CHECKED
      if
      :: seq[r] == q -> pin[0] = 0 /* not retired yet: every scan that matters begins later */
      :: else -> pin[1] = 0
      fi;
#else
      pin[0] = 0;
#endif
#endif
#ifdef FORK
      pin[1] = pin[0];
      fork_asked = true;
#ifdef FORK_EARLY_UNPIN
      pin[0] = 0; /* another thread drops its view while the hand-over is on its way */
#endif
      fork_done;
      atomic { readers_left = readers_left + 1; run child(r, n, q) };
#endif
      read_body(r, n, q);
      pin[me] = 0
#if defined(COPY_PIN) || defined(COPY_CHECKED)
      ; pin[1] = 0
#endif
    :: else -> skip
    fi
  } unless { me == 0 && kill_reader };
  d_step {
    hung_up[me] = true;
#ifdef FORK
    if
    :: readers_left == 1 -> hung_up[1] = true /* no child holds the other end */
    :: else -> skip
    fi;
#endif
    readers_left = readers_left - 1
  }
}

/* The child of a fork: reads what its parent had pinned, with its own session and the copied pin. */
proctype child(byte r; byte n; byte q) {
  read_body(r, n, q);
  pin[1] = 0;
  d_step { hung_up[1] = true; readers_left = readers_left - 1 }
}

/* ---- node ---- */

inline retire(x) {
  seq[x] = seq[x] + 1;
  state[x] = RETIRED
}

inline scan() { /* one load a word, the second pin first */
  seen[1] = (registered[1] -> pin[1] : 0);
  seen[0] = (registered[0] -> pin[0] : 0)
}

inline free_unseen() {
  d_step {
    i = 0;
    do
    :: i < NREC ->
      if
      :: state[i] == RETIRED && seen[0] != WORD(i, seq[i] - 1) && seen[1] != WORD(i, seq[i] - 1) ->
        state[i] = FREE; version[i] = 0;
        body[i] = 0 /* the block may hold anything from here on */
      :: else -> skip
      fi;
      i = i + 1
    :: else -> break
    od;
    i = 0; r = 0; old = 0; seen[0] = 0; seen[1] = 0
  }
}

inline pick_free() { /* r = a free slot, or NREC */
  d_step {
    r = 0;
    do
    :: r < NREC && state[r] != FREE -> r = r + 1
    :: else -> break
    od
  }
}

inline publish(n) {
  pick_free();
  if
  :: r == NREC -> r = 0
  :: else ->
    d_step {
      version[r] = next_version; next_version = next_version + 1;
      state[r] = PUBLISHING
    };
    name[r] = n;
    finish_publish(n)
  fi
}

inline finish_publish(n) {
  body[r] = BODY(n, seq[r] + 1);
  seq[r] = seq[r] + 1;
  state[r] = LIVE;
  d_step { /* a reader sees this entry or the older one */
    old = index[table * NNAMES + n];
    index[table * NNAMES + n] = r + 1;
    r = 0
  };
  retire_and_free()
}

inline retire_and_free() { /* the record behind `old`, if any */
  if
  :: old != 0 ->
#ifdef SCAN_BEFORE_RETIRE
    scan();
    retire(old - 1);
    free_unseen()
#else
    retire(old - 1); /* scans come on their own time */
#ifdef FREE_WITHOUT_SCAN
    free_unseen()
#endif
#endif
    old = 0
  :: else -> skip
  fi
}

inline remove(n) {
  d_step { old = index[table * NNAMES + n]; index[table * NNAMES + n] = 0 };
  retire_and_free()
}

inline replace_index() {
  d_step { /* nobody looks at the new one before the header names it */
    index[(table + 1) * NNAMES] = index[table * NNAMES];
    index[(table + 1) * NNAMES + 1] = index[table * NNAMES + 1]
  };
  table = table + 1
}

inline close_dead_sessions() {
  d_step {
    i = 0;
    do
    :: i < NPINS ->
      if
#ifdef CLOSE_LIVE
      :: registered[i] -> registered[i] = false
#endif
#ifndef LOST_SESSION
      :: registered[i] && hung_up[i] -> registered[i] = false
#endif
      :: else -> skip
      fi;
      i = i + 1
    :: else -> break
    od;
    i = 0
  }
}

/* A new node knows only what shared memory says. Two live records of one name: the older one was being replaced. */
inline recover() {
  do
  :: r < NREC ->
    d_step {
      if
      :: version[r] >= next_version -> next_version = version[r] + 1
      :: else -> skip
      fi;
      if
      :: !ODD(seq[r]) && state[r] == LIVE -> state[r] = RETIRED
      :: else -> skip
      fi
    };
    if
    :: ODD(seq[r]) -> state[r] = LIVE
    :: !ODD(seq[r]) && state[r] == PUBLISHING ->
      body[r] = BODY(name[r], seq[r] + 1);
      seq[r] = seq[r] + 1;
      state[r] = LIVE
#ifdef FORGET_RETIRED
    :: state[r] == RETIRED -> state[r] = FREE
#endif
    :: else -> skip
    fi;
    if
    :: state[r] == LIVE ->
      old = index[FRESH * NNAMES + name[r]];
      if
      :: old == 0 -> index[FRESH * NNAMES + name[r]] = r + 1
      :: old != 0 && version[old - 1] < version[r] ->
        index[FRESH * NNAMES + name[r]] = r + 1;
        retire(old - 1)
      :: else -> retire(r)
      fi
    :: else -> skip
    fi;
    r = r + 1
  :: else -> break
  od;
  table = FRESH;
  d_step { r = 0; old = 0 }
}

proctype node(bool first) {
  byte r, i, old;
  byte seen[2];
  {
    if
    :: first -> skip
    :: else -> recover()
    fi;
    do
    :: ops > 0 ->
      ops = ops - 1;
      if
      :: publish(0)
      :: publish(1)
      :: remove(0)
      :: table == 0 -> replace_index()
      :: scan(); free_unseen()
      :: (registered[0] && hung_up[0]) || (registered[1] && hung_up[1]) -> close_dead_sessions()
#ifdef CLOSE_LIVE
      :: close_dead_sessions()
#endif
      fi
#ifdef FORK
    :: fork_asked && !fork_done -> registered[1] = true; fork_done = true
#endif
    :: ops == 0 && readers_left == 0 -> break
    od;
    skip;
    close_dead_sessions();
    scan();
    free_unseen();
    r = 0;
    do
    :: r < NREC ->
      assert(state[r] == FREE || (state[r] == LIVE && index[table * NNAMES + name[r]] == r + 1));
      r = r + 1
    :: else -> break
    od
  } unless { first && kill_node };
  if
  :: first && kill_node -> run node(false)
  :: else -> skip
  fi
}

proctype killer() {
#ifdef NODE_DEATH
  kill_node = true
#else
  kill_reader = true
#endif
}

init {
  atomic {
    registered[0] = true;
    readers_left = 1;
#if defined(COPY_PIN) || defined(COPY_CHECKED)
    registered[1] = true; /* one table of two words */
#endif
#if defined(READER_DEATH) || defined(NODE_DEATH)
    run killer();
#elif !defined(FORK) && !defined(COPY_PIN) && !defined(COPY_CHECKED)
    registered[1] = true;
    readers_left = 2;
    run reader(1, 0);
#endif
    run reader(0, 0);
    run node(true)
  }
}
