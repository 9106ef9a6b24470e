/* The lock of a region (proto/layout/region_layout.h, client/session/region_lock.cc, server/mutable/region_holds.cc),
 * small enough to be checked exhaustively.
 *
 * Processes ask for it, hold it, give up while they wait, and may be killed between any two steps; the node then clears
 * what the dead had, beside the others, who go on. Every shared access is one step: all are seq_cst.
 *
 * Checked: who writes is alone, and who reads sees no writer (the asserts in hold); nobody waits for ever (spin's invalid
 * end states: a sleeper whose wake-up was lost); a writer that died while it wrote is known (abandoned); at the end the
 * lock is free.
 *
 * Each process has the slot of its number. The futex is its semantics: a sleeper goes on when `turns` is not what it saw
 * any more. Turns of the ticket rule and of courtesy only change who of several may try first; they are left out.
 *
 * Shapes: READERS, WRITERS: how many of each, numbered readers first; GIVE_UP: a wait may end by itself; DEATH: process 0
 * is killed at any step (KILL_WRITER: the last one). Broken on purpose, each must be found wrong by tests/model/run:
 * NO_SECOND_LOOK NO_DRAIN NO_WAKE_ON_BACK_OFF NO_WAKE_ON_END NO_WAKE_ON_CLEAR CLEAR_WITHOUT_WRITER FORGET_ABANDONED
 */
#ifndef READERS
#define READERS 2
#endif
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef TURNS
#define TURNS 1   /* how often each holds it */
#endif
#define N (READERS + WRITERS)
#ifdef KILL_WRITER
#define VICTIM (N - 1)
#else
#define VICTIM 0
#endif

#define IDLE 0
#define READING 1
#define WANT_READ 2
#define WRITING 3
#define WANT_WRITE 4

/* Shared memory. */
byte word[N];
byte writer;      /* slot + 1 */
byte turns;
bool abandoned;

/* What really is the case. */
bool in_read[N], in_write[N];
byte reads, writes;
bool half;        /* a writer died while it wrote, and none has written since */
bool killed, gone;
byte left = N;

inline wake() { turns++ }

inline sleep() {
  if
  :: turns != seen -> skip
#ifdef GIVE_UP
  :: gave_up = true
#endif
  fi
}

inline hold_read(me) {
  atomic { reads++; in_read[me] = true };
  assert(writes == 0 && (!half || abandoned));
  assert(writes == 0);
  atomic { reads--; in_read[me] = false }
}

inline hold_write(me) {
  atomic { writes++; in_write[me] = true };
  assert(writes == 1 && reads == 0 && (!half || abandoned));
  assert(writes == 1 && reads == 0);
  atomic { writes--; in_write[me] = false; half = false }
}

inline pass_on() {
  i = 0;
  do
  :: i < N ->
    if
    :: atomic { word[i] == WANT_READ -> word[i] = READING }
    :: word[i] != WANT_READ -> skip
    fi;
    i++
  :: i == N -> break
  od;
  writer = 0
}

inline try_read(me) {
  if
  :: atomic { word[me] == WANT_READ -> word[me] = READING };
#ifdef NO_SECOND_LOOK
    got = true
#else
    if
    :: writer == 0 -> got = true
    :: writer != 0 ->
      word[me] = WANT_READ;
#ifndef NO_WAKE_ON_BACK_OFF
      wake()
#endif
    fi
#endif
  :: word[me] == READING -> got = true /* a writer that ended has let it in */
  fi
}

inline withdraw(me) {
  if
  :: atomic { word[me] == WANT_READ -> word[me] = IDLE }
  :: word[me] == READING -> got = true
  fi
}

inline read_once(me) {
  got = false; gave_up = false;
  word[me] = WANT_READ;
  do
  :: got || gave_up -> break
  :: else ->
    seen = turns;
    if
    :: word[me] == READING -> got = true
    :: word[me] != READING ->
      if
      :: writer == 0 -> try_read(me)
      :: writer != 0 -> skip
      fi
    fi;
    if
    :: got -> skip
    :: else -> sleep()
    fi;
    if
    :: gave_up -> withdraw(me)
    :: else -> skip
    fi
  od;
  if
  :: got ->
    hold_read(me);
    word[me] = IDLE;
#ifndef NO_WAKE_ON_END
    if
    :: writer != 0 -> wake()
    :: writer == 0 -> skip
    fi
#endif
  :: else -> skip
  fi
}

inline look_for_readers(me) {
  any = false; i = 0;
#ifndef NO_DRAIN
  do
  :: i < N ->
    if
    :: i != me && word[i] == READING -> any = true
    :: else -> skip
    fi;
    i++
  :: i == N -> break
  od
#endif
}

inline write_once(me) {
  got = false; gave_up = false; has = false;
  word[me] = WANT_WRITE;
  do
  :: got || gave_up -> break
  :: else ->
    seen = turns;
    if
    :: !has ->
      if
      :: atomic { writer == 0 -> writer = me + 1; has = true }
      :: writer != 0 -> skip
      fi
    :: has -> skip
    fi;
    if
    :: has -> look_for_readers(me); got = !any
    :: else -> skip
    fi;
    if
    :: got -> skip
    :: else -> sleep()
    fi
  od;
  if
  :: got ->
    word[me] = WRITING;
    hold_write(me);
    abandoned = false;
    pass_on();
    word[me] = IDLE;
    wake()
  :: else ->
    if
    :: has -> pass_on()
    :: else -> skip
    fi;
    word[me] = IDLE;
    wake()
  fi
}

/* What the process itself knew is lost with it. */
inline die(me) {
  atomic {
    if :: in_read[me] -> reads--; in_read[me] = false :: else -> skip fi;
    if :: in_write[me] -> writes--; in_write[me] = false; half = true :: else -> skip fi;
    if :: me == VICTIM -> gone = true :: else -> skip fi
  }
}

proctype reader(byte me) {
  byte seen, n; bool got, gave_up;
  { do
    :: n < TURNS -> read_once(me); n++
    :: n == TURNS -> break
    od
  } unless { killed && me == VICTIM };
  die(me);
  left--
}

proctype writing(byte me) {
  byte seen, n, i; bool got, gave_up, has, any;
  { do
    :: n < TURNS -> write_once(me); n++
    :: n == TURNS -> break
    od
  } unless { killed && me == VICTIM };
  die(me);
  left--
}

#ifdef DEATH
proctype killer() { killed = true }

/* ClearHolds, once the session's end is known. */
proctype node() {
  byte seen;
  killed && !in_read[VICTIM] && !in_write[VICTIM] && gone;
  seen = word[VICTIM];
  if
#ifndef CLEAR_WITHOUT_WRITER
  :: writer == VICTIM + 1 ->
#ifndef FORGET_ABANDONED
    if
    :: seen == WRITING -> abandoned = true
    :: else -> skip
    fi;
#endif
    word[VICTIM] = IDLE;
    writer = 0
  :: writer != VICTIM + 1 -> word[VICTIM] = IDLE
#else
  :: true -> word[VICTIM] = IDLE
#endif
  fi;
#ifndef NO_WAKE_ON_CLEAR
  wake();
#endif
  left--
}
#endif

init {
  byte k = 0;
  atomic {
    do
    :: k < READERS -> run reader(k); k++
    :: k >= READERS && k < N -> run writing(k); k++
    :: k == N -> break
    od;
#ifdef DEATH
    left++;
    run killer();
    run node()
#endif
  };
  left == 0;
  assert(writer == 0);
  k = 0;
  do
  :: k < N -> assert(word[k] == IDLE); k++
  :: k == N -> break
  od
}
