"""Asks grpc.health.v1.Health as the kubelet's gRPC probe does, without a gRPC library: one HTTP/2 request by hand."""

from __future__ import annotations

import socket
import struct

_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
SERVING = 1


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header(name: str, value: str) -> bytes:
    """HPACK: a literal, not indexed, no Huffman code."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def health(host: str, port: int, timeout: float = 10) -> int:
    """The status of the whole server (SERVING = 1). ConnectionError if there is no answer with one."""
    headers = b"".join(_header(*one) for one in (
        (":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check"), (":authority", host),
        ("content-type", "application/grpc"), ("te", "trailers")))
    with socket.create_connection((host, port), timeout=timeout) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b"")
                           + _frame(_HEADERS, _END_HEADERS, 1, headers) + _frame(_DATA, _END_STREAM, 1, b"\0" * 5))  # an empty message
        with connection.makefile("rb") as answer:
            while head := answer.read(9):
                payload = answer.read(int.from_bytes(head[:3], "big"))
                if head[3] == _DATA and payload:
                    assert payload[5:6] == b"\x08", payload  # field 1, a number
                    return payload[6]
    raise ConnectionError(f"{host}:{port} ended the connection without an answer")
