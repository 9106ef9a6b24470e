"""Two hosts on one machine: network namespaces with a wire between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

SERVER, CLIENT = "10.77.0.1", "10.77.0.2"


class TwoHosts:
    """`server` and `client` are the words that run a command on one of them. Needs root and iproute2."""

    def __init__(self) -> None:
        self._names = [f"penstock-bench-{os.getpid()}-{end}" for end in ("a", "b")]
        self.server, self.client = (["ip", "netns", "exec", name] for name in self._names)

    @staticmethod
    def why_not() -> str | None:
        if os.geteuid() != 0:
            return "network namespaces need root"
        return None if shutil.which("ip") else "network namespaces need iproute2"

    def __enter__(self) -> "TwoHosts":
        try:
            for name in self._names:
                _ip("netns", "add", name)
            _ip("link", "add", "wire", "netns", self._names[0], "type", "veth", "peer", "name", "wire", "netns", self._names[1])
            for name, address in zip(self._names, (SERVER, CLIENT)):
                _ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
                for device in ("lo", "wire"):
                    _ip("-n", name, "link", "set", device, "up")
            for name in self._names:
                _await_carrier(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _await_carrier(name: str) -> None:
    """UCX uses no device before that."""
    end = time.monotonic() + 5
    while b"state UP" not in subprocess.run(["ip", "-n", name, "link", "show", "wire"], check=True, capture_output=True).stdout:
        if time.monotonic() > end:
            raise TimeoutError(f"the wire of {name} does not come up")
        time.sleep(0.05)
