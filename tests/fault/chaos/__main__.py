"""tests/fault/run: random clients and random faults on real processes, and what must hold.

    tests/fault/run --minutes 10                      # the seed is printed; the same seed draws the same faults
    tests/fault/run --seconds 30 --seed 7 --faults partition,node_killed --keep DIR

Standard output is one JSON object; standard error tells what goes on. Exit code 0: everything held; 1: it did not; 77: this machine
cannot run it (needs root, iproute2, nftables, etcd).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from chaos import verdict
from chaos.cluster import Cluster, Setup, why_not
from chaos.faults import FAULTS
from chaos.injector import Injector
from support.daemon import BUILD
from support.linearizable import check
from support.waiting import until

CANNOT_RUN = 77
SHOWN = 10  # of a list of wrongs


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def nodes_know_etcd() -> bool:
    said = subprocess.run([str(BUILD / "bin" / "penstockd"), "--help"], capture_output=True, text=True, check=True)
    return "--etcd=" in said.stdout


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/fault/run", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long faults go on (default 1)")
    parser.add_argument("--seconds", type=float, help="the same, in seconds")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="of faults and operations (default: a new one)")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--members", type=int, default=3, help="of etcd (default 3)")
    parser.add_argument("--etcd", choices=("auto", "on", "off"), default="auto",
                        help="the nodes find each other by etcd, or by --peers (auto: as the built penstockd can)")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--names", type=int, default=8)
    parser.add_argument("--memory", default="128MiB", help="of a node")
    parser.add_argument("--deletes", action="store_true", help="delete, too, and a put that happens twice is wrong: what the nodes keep when they use the directory")
    parser.add_argument("--faults", help="only these, a comma list of " + ", ".join(FAULTS))
    parser.add_argument("--keep", type=Path, help="a new folder for the histories and logs (default: kept only if something is wrong)")
    args = parser.parse_args(words)
    kinds = args.faults.split(",") if args.faults else []
    if unknown := [kind for kind in kinds if kind not in FAULTS]:
        parser.error(f"faults: there is no {unknown[0]}")
    return args


def setup_of(args: argparse.Namespace) -> Setup:
    with_etcd = args.etcd == "on" or (args.etcd == "auto" and nodes_know_etcd() and args.members > 0)
    return Setup(args.nodes, args.members, with_etcd, args.memory, args.clients, args.names, args.deletes, args.seed)


def run(args: argparse.Namespace, setup: Setup, where: Path) -> dict:
    seconds = args.seconds if args.seconds is not None else 60 * args.minutes
    with Cluster(setup, where) as cluster:
        verdict.put_first(cluster)
        for i in range(setup.clients):
            cluster.start_client(i % setup.nodes)
        injector = Injector(cluster, setup.seed, args.faults.split(",") if args.faults else None, say)
        try:
            injector.run(seconds)
        finally:
            injector.heal_all()
        ended = [f"client {number} ended with {process.poll()}" for number, (process, _) in cluster.clients.items() if process.poll() is not None]
        say("all faults are over")
        silent = verdict.read_at_the_end(cluster)
        for number in list(cluster.clients):
            cluster.end_client(number, signal.SIGKILL)
        left = verdict.accounting_at_the_end(cluster)
        for member in cluster.members:
            until(member.is_healthy, f"etcd member {member.index} is healthy again", deadline_s=60)
        stopped = Counter(str(daemon.stop()) for daemon in cluster.daemons)
    return judged(where, setup, seconds, injector.count, {"silent": silent, "left": left, "clients": ended,
                                                         "stopped": [] if set(stopped) == {"0"} else [dict(stopped)]})


def judged(where: Path, setup: Setup, seconds: float, faults: Counter, wrong: dict) -> dict:
    say("checking the histories")
    operations, outcomes, unexpected = verdict.history_of(where)
    repeated = 0
    if not setup.deletes:
        operations, repeated = verdict.without_repetitions(operations)
    begin = time.monotonic()
    orders = [str(one) for one in check(operations)]
    wrong |= {"orders": orders[:SHOWN], "unexpected": unexpected[:SHOWN]}
    answered = sum(count for what, count in outcomes.items() if not what.endswith(("ambiguous", "nothing")))
    return {
        "ok": not any(wrong.values()), "seed": setup.seed, "seconds": seconds, "nodes": setup.nodes,
        "coordination": "etcd" if setup.with_etcd else "peers", "faults": dict(faults), "operations": sum(outcomes.values()),
        "answered": answered, "outcomes": dict(outcomes),
        "happened_again": repeated, "check_seconds": round(time.monotonic() - begin, 2), "wrong": wrong,
    }


def main(words: list[str]) -> int:
    args = parsed(words)
    if why := why_not(args.members):
        say(f"SKIP chaos: {why}")
        return CANNOT_RUN
    setup = setup_of(args)
    say(f"--seed {setup.seed}")
    # Short: a path of a socket may have 107 bytes only.
    where = args.keep or Path(tempfile.mkdtemp(prefix="pst-chaos-", dir="/tmp"))
    where.mkdir(parents=True, exist_ok=True)
    summary = run(args, setup, where)
    print(json.dumps(summary, indent=1))
    if summary["ok"] and args.keep is None:
        shutil.rmtree(where, ignore_errors=True)
    elif not summary["ok"]:
        say(f"histories and logs are in {where}; tests/fault/run --seed {setup.seed} draws the same faults")
    return 0 if summary["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
