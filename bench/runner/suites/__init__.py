"""The suites, by the name that bench/run takes. Each is a module with NEEDS and run(setting)."""

from __future__ import annotations

from runner.suites import boxes, broadcast, channels, directory_link, fetch, local, names, peers, put, python, rdma, remote, repair, resharding, restart, scale, seeds, weights

SUITES = {
    "local": local,
    "python": python,
    "put": put,
    "names": names,
    "seeds": seeds,
    "remote": remote,
    "rdma": rdma,
    "fetch": fetch,
    "boxes": boxes,
    "channels": channels,
    "directory_link": directory_link,
    "resharding": resharding,
    "weights": weights,
    "broadcast": broadcast,
    "repair": repair,
    "restart": restart,
    "scale": scale,
    "peers": peers,
}
