"""redis over its UNIX socket, without saving."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import redis

SERVER = "REDIS_SERVER"  # environment: the program


class Store:
    def __init__(self, folder: str) -> None:
        socket = Path(folder) / "redis.sock"
        self._server = subprocess.Popen(
            [
                os.environ[SERVER], "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder,
                "--proto-max-bulk-len", "2gb", "--daemonize", "no", "--logfile", "/dev/null",
            ],
            stdin=subprocess.DEVNULL,
        )
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 200)  # until it serves
        self._redis = redis.Redis(unix_socket_path=str(socket), retry=retry,
                                  retry_on_error=[redis.exceptions.ConnectionError])
        self._redis.ping()

    def put(self, name: str, array: np.ndarray) -> None:
        self._redis.set(name, array.data)

    def get(self, name: str) -> np.ndarray:
        return np.frombuffer(self._redis.get(name), np.uint8)

    def put_many(self, tensors: dict[str, np.ndarray]) -> None:
        self._redis.mset({name: array.data for name, array in tensors.items()})

    def get_many(self, names: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(value, np.uint8) for value in self._redis.mget(names)]

    def close(self) -> None:
        self._redis.close()
        self._server.terminate()
        self._server.wait()
