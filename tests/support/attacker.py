"""A hostile client: tries to change memory that it was given descriptors of, by every way that Linux has.

    python -m support.attacker SOCKET_DIR          -> JSON {segment: {attack: outcome}}

It speaks the fd socket's protocol by itself (proto/layout/fd_messages.h) and uses nothing of the client library.
Outcome: "changed" when other processes now see other bytes or another size, "accepted" when the kernel let it
do what it asked, though nothing changed, else the name of the error. Against "unsealed", a memfd of its own
without seals, every attack must work: that shows that the attacks are real.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import re
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Callable

from support.daemon import ROOT

LAYOUT_VERSION = int(re.search(r"kLayoutVersion = (\d+);", (ROOT / "proto/layout/catalog_layout.h").read_text())[1])
MAGIC = 0x50535446
HELLO, GET_SEGMENT, WELCOME, SEGMENT_REPLY = 1, 2, 32, 33
HEADER = struct.Struct("<IHHQ")
SEGMENT = struct.Struct("<IHHQIIQII")
KINDS = {1: "catalog header", 2: "catalog chunk", 3: "index", 4: "arena", 5: "extent"}
PAGE = 4096
PUNCH = 0x01 | 0x02  # keep size
MADV_REMOVE, MREMAP_MAYMOVE = 9, 1

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
for call in ("mprotect", "madvise"):
    getattr(libc, call).argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
libc.process_vm_writev.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong,
                                   ctypes.c_ulong]
READ, READ_WRITE = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE


class Target:
    """One segment: its descriptor, and what it showed at first."""

    def __init__(self, fd: int, nbytes: int) -> None:
        self.fd, self.nbytes = fd, nbytes
        self.before = self.digest()

    def digest(self) -> tuple[int, bytes]:
        # pread: what every other process sees; the size as well.
        return os.fstat(self.fd).st_size, os.pread(self.fd, min(self.nbytes, 4 << 20), 0)

    def map(self, protection: int, flags: int = mmap.MAP_SHARED, fd: int | None = None, length: int = 0) -> int:
        return check_pointer(libc.mmap(None, length or self.nbytes, protection, flags, self.fd if fd is None else fd, 0))

    def poke(self, address: int) -> None:
        """Changes the first byte at an address that may be written."""
        ctypes.memset(address, ctypes.string_at(address, 1)[0] ^ 0xFF, 1)


def check_pointer(pointer: int | None) -> int:
    if pointer is None or pointer == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "")
    return pointer


def check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def other_byte(t: Target) -> bytes:
    return bytes([t.before[1][0] ^ 0xFF])


def map_writable(t: Target) -> None:
    t.poke(t.map(READ_WRITE))


def map_write_only(t: Target) -> None:
    address = t.map(mmap.PROT_WRITE)
    ctypes.memset(address, t.before[1][0] ^ 0xFF, 1)


def make_writable(t: Target) -> None:
    address = t.map(READ)
    check(libc.mprotect(address, t.nbytes, READ_WRITE))
    t.poke(address)


def move_and_make_writable(t: Target) -> None:
    address = check_pointer(libc.mremap(t.map(READ, length=PAGE), PAGE, 2 * PAGE, MREMAP_MAYMOVE))
    check(libc.mprotect(address, PAGE, READ_WRITE))
    t.poke(address)


def duplicate_and_make_writable(t: Target) -> None:
    address = check_pointer(libc.mremap(t.map(READ), 0, t.nbytes, MREMAP_MAYMOVE))  # old size 0: a second mapping
    check(libc.mprotect(address, t.nbytes, READ_WRITE))
    t.poke(address)


def reopen(t: Target, of: str) -> int:
    return os.open(f"/proc/{of}/fd/{t.fd}", os.O_RDWR)


def reopened_map(of: str) -> Callable[[Target], None]:
    return lambda t: t.poke(t.map(READ_WRITE, fd=reopen(t, of)))


def reopened_write(of: str) -> Callable[[Target], None]:
    return lambda t: check(os.pwrite(reopen(t, of), other_byte(t), 0))


def truncate_open(t: Target) -> None:
    os.open(f"/proc/self/fd/{t.fd}", os.O_RDWR | os.O_TRUNC)


def private(t: Target) -> None:
    """A private mapping may be written; its changes must stay in it."""
    t.poke(t.map(READ_WRITE, mmap.MAP_PRIVATE))


def own_memory_file(t: Target) -> None:
    with open("/proc/self/mem", "r+b", buffering=0) as memory:  # writes past page protection where it may
        memory.seek(t.map(READ))
        memory.write(other_byte(t))


def own_process_vm(t: Target) -> None:
    byte = ctypes.create_string_buffer(other_byte(t), 1)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(byte), 1)
    remote = (ctypes.c_void_p * 2)(t.map(READ), 1)
    check(libc.process_vm_writev(os.getpid(), local, 1, remote, 1, 0))


def copy_file(t: Target) -> None:
    with tempfile.TemporaryFile() as source:
        source.write(other_byte(t))
        source.flush()
        os.lseek(t.fd, 0, os.SEEK_SET)
        os.sendfile(t.fd, source.fileno(), 0, 1)


def splice_in(t: Target) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, other_byte(t))
    os.splice(read_end, t.fd, 1, offset_dst=0)


ATTACKS: dict[str, Callable[[Target], None]] = {
    "mmap PROT_READ|PROT_WRITE": map_writable,
    "mmap PROT_WRITE": map_write_only,
    "mprotect": make_writable,
    "mremap, mprotect": move_and_make_writable,
    "mremap of a copy, mprotect": duplicate_and_make_writable,
    "/proc/self/fd, mmap": reopened_map("self"),
    "/proc/PID/fd, mmap": reopened_map(str(os.getpid())),
    "/proc/self/fd, pwrite": reopened_write("self"),
    "/proc/PID/fd, pwrite": reopened_write(str(os.getpid())),
    "/proc/self/mem": own_memory_file,
    "process_vm_writev": own_process_vm,
    "pwrite": lambda t: check(os.pwrite(t.fd, other_byte(t), 0)),
    "pwritev": lambda t: check(os.pwritev(t.fd, [other_byte(t)], 0)),
    "sendfile": copy_file,
    "splice": splice_in,
    "fallocate punch hole": lambda t: check(libc.fallocate(t.fd, PUNCH, 0, PAGE)),
    "madvise MADV_REMOVE": lambda t: check(libc.madvise(t.map(READ), PAGE, MADV_REMOVE)),
    "madvise MADV_REMOVE, writable": lambda t: check(libc.madvise(t.map(READ_WRITE), PAGE, MADV_REMOVE)),
    "ftruncate larger": lambda t: os.ftruncate(t.fd, t.nbytes + PAGE),
    "fallocate larger": lambda t: check(libc.fallocate(t.fd, 0, t.nbytes, 2 * PAGE)),
    "ftruncate smaller": lambda t: os.ftruncate(t.fd, t.nbytes - PAGE),
    "ftruncate 0": lambda t: os.ftruncate(t.fd, 0),
    "open O_TRUNC": truncate_open,
}
# What the kernel refuses for every shared read-only mapping, sealed or not: no control for these.
NEVER = ("/proc/self/mem", "process_vm_writev")


def attack(t: Target, how: Callable[[Target], None]) -> str:
    outcome = "accepted"
    try:
        how(t)
    except OSError as error:
        outcome = errno.errorcode.get(error.errno, str(error))
    if t.digest() != t.before:
        return "changed"
    return outcome


def unsealed_target() -> Target:
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4 * PAGE)
    os.pwrite(fd, b"\x5a" * 4 * PAGE, 0)
    return Target(fd, 4 * PAGE)


class Session:
    """As little of a client as it takes to be given descriptors."""

    def __init__(self, socket_dir: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        self.socket.connect(str(Path(socket_dir) / "fd.sock"))
        hello = HEADER.pack(MAGIC, HELLO, LAYOUT_VERSION, 1) + struct.pack("<II64s", os.getpid(), 0, b"attacker")
        self.socket.send(hello)
        reply, fds = self.receive(1)
        assert HEADER.unpack_from(reply)[1] == WELCOME, "the node refused the attacker's session"
        self.header_fd = fds[0]

    def receive(self, number: int) -> tuple[bytes, list[int]]:
        while True:
            reply, fds, _, _ = socket.recv_fds(self.socket, 4096, 16)
            if HEADER.unpack_from(reply)[3] == number:
                return reply, fds

    def segments(self) -> dict[str, Target]:
        found = {"catalog header": Target(self.header_fd, os.fstat(self.header_fd).st_size)}
        for segment in range(1, 64):
            number = 100 + segment
            self.socket.send(SEGMENT.pack(MAGIC, GET_SEGMENT, LAYOUT_VERSION, number, segment, 0, 0, 0, 0))
            reply, fds = self.receive(number)
            if HEADER.unpack_from(reply)[1] != SEGMENT_REPLY:
                continue
            _, _, _, _, ident, kind, nbytes, _, _ = SEGMENT.unpack(reply)
            found[f"{KINDS.get(kind, kind)} {ident}"] = Target(fds[0], nbytes)
        return found


def main() -> None:
    report: dict[str, dict[str, str]] = {}
    for name, how in ATTACKS.items():  # a fresh one for each: an attack that works changes it
        report.setdefault("unsealed", {})[name] = attack(unsealed_target(), how)
    for label, target in Session(sys.argv[1]).segments().items():
        report[label] = {name: attack(target, how) for name, how in ATTACKS.items()}
        report[label]["private mapping"] = attack(target, private)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
