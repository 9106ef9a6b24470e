"""A CA of its own for a test, and what it signs; made with OpenSSL's command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *(str(word) for word in words)], check=True, capture_output=True)


@dataclass
class Certificate:
    ca: Path
    cert: Path
    key: Path

    def flags(self) -> list[str]:
        return [f"--tls_ca={self.ca}", f"--tls_cert={self.cert}", f"--tls_key={self.key}"]

    def files(self) -> dict[str, str]:
        return {"ca": str(self.ca), "cert": str(self.cert), "key": str(self.key)}


class Authority:
    def __init__(self, where: Path, name: str = "test CA") -> None:
        where.mkdir(parents=True, exist_ok=True)
        self._where = where
        self.ca = where / "ca.pem"
        self._key = where / "ca.key"
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 2,
                 "-subj", f"/CN={name}", "-keyout", self._key, "-out", self.ca)

    def sign(self, name: str, hosts: str = "IP:127.0.0.1,DNS:localhost") -> Certificate:
        cert, key, request, extra = (self._where / f"{name}.{end}" for end in ("pem", "key", "csr", "ext"))
        extra.write_text(f"subjectAltName={hosts}\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                 "-keyout", key, "-out", request)
        fresh = cert.with_suffix(".new")
        _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-days", 2,
                 "-extfile", extra, "-out", fresh)
        fresh.rename(cert)
        return Certificate(self.ca, cert, key)
