"""Rendered manifests as tests ask them: who runs what, under which rules, with which flags."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

from support.daemon import BUILD, clean_environment
from support.kustomize import Resource

WORKLOADS = ("DaemonSet", "StatefulSet", "Deployment", "Job")
# What the kubelet would put in; no default of a flag is like it.
FIELDS = {"status.podIP": "127.1.2.3", "spec.nodeName": "host-1", "metadata.namespace": "penstock", "metadata.name": "pod-0"}
_BYTES = {"": 1, "KiB": 1 << 10, "Ki": 1 << 10, "MiB": 1 << 20, "Mi": 1 << 20, "GiB": 1 << 30, "Gi": 1 << 30, "TiB": 1 << 40, "Ti": 1 << 40}


def size(text: str) -> int:
    """Bytes, as penstockd or Kubernetes writes them."""
    number, unit = re.fullmatch(r"(\d+)([KMGT]iB?|)", text).groups()
    return int(number) * _BYTES[unit]


@dataclass
class Container:
    name: str
    spec: dict[str, Any]
    pod: dict[str, Any]
    is_init: bool

    def security(self, field: str) -> Any:
        """The container's own word, else the pod's."""
        return self.spec.get("securityContext", {}).get(field, self.pod.get("securityContext", {}).get(field))

    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.spec.get("ports", [])}

    def probes(self) -> dict[str, dict[str, Any]]:
        return {kind: self.spec[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe") if kind in self.spec}

    def environment(self) -> dict[str, str]:
        return {one["name"]: one["value"] if "value" in one else FIELDS[one["valueFrom"]["fieldRef"]["fieldPath"]] for one in self.spec.get("env", [])}

    def mounts(self) -> dict[str, dict[str, Any]]:
        return {mount["mountPath"]: mount for mount in self.spec.get("volumeMounts", [])}

    def limit(self, what: str) -> int:
        return size(self.spec["resources"]["limits"].get(what, "0"))


@dataclass
class Workload:
    kind: str
    name: str
    spec: dict[str, Any]

    @property
    def pod(self) -> dict[str, Any]:
        return self.spec["template"]["spec"]

    @property
    def labels(self) -> dict[str, str]:
        return self.spec["template"]["metadata"]["labels"]

    def containers(self) -> Iterator[Container]:
        for field in ("initContainers", "containers"):
            for spec in self.pod.get(field, []):
                yield Container(spec["name"], spec, self.pod, field == "initContainers")

    def container(self, name: str) -> Container:
        return next(container for container in self.containers() if container.name == name)

    def volumes(self) -> dict[str, dict[str, Any]]:
        return {volume["name"]: volume for volume in self.pod.get("volumes", [])}


@dataclass
class Manifests:
    """What one overlay renders."""

    name: str
    resources: list[Resource]

    def of(self, kind: str) -> list[Resource]:
        return [resource for resource in self.resources if resource["kind"] == kind]

    def named(self, kind: str, name: str) -> Resource:
        return next(resource for resource in self.of(kind) if resource["metadata"]["name"] == name)

    def workloads(self) -> list[Workload]:
        return [Workload(one["kind"], one["metadata"]["name"], one["spec"]) for one in self.resources if one["kind"] in WORKLOADS]

    def workload(self, name: str) -> Workload:
        return next(workload for workload in self.workloads() if workload.name == name)

    def containers(self) -> list[tuple[Workload, Container]]:
        return [(workload, container) for workload in self.workloads() for container in workload.containers()]

    def selected(self, labels: dict[str, str]) -> list[Workload]:
        assert labels, f"{self.name}: an empty selector"
        return [workload for workload in self.workloads() if labels.items() <= workload.labels.items()]

    @property
    def node(self) -> Container:
        return self.workload("penstock-node").container("penstockd")

    def flagfile(self) -> tuple[str, str]:
        """Where the node's container finds it, and what is in it."""
        volume = self.workload("penstock-node").volumes()["flags"]
        ((file, text),) = self.named("ConfigMap", volume["configMap"]["name"])["data"].items()
        path = next(path for path, mount in self.node.mounts().items() if mount["name"] == "flags")
        return f"{path}/{file}", text


def print_config(manifests: Manifests, folder: Path, more: str = "") -> subprocess.CompletedProcess[str]:
    """The container's own command and environment, its program the real one, asked for what it would use.

    Only two things differ: the flagfile lies in `folder` (with the lines of `more`), and --print_config is added.
    """
    path, text = manifests.flagfile()
    mounted = folder / "flags"
    mounted.write_text(text + more)
    program = folder / "penstockd"
    program.write_text(f'#!/bin/sh\nexec "{BUILD}/bin/penstockd" "$@" --print_config\n')
    program.chmod(0o755)
    assert any(path in word for word in manifests.node.spec["command"]), f"{manifests.name}: the command names no {path}"
    command = [word.replace(path, str(mounted)) for word in manifests.node.spec["command"]]
    environment = clean_environment(PATH=f"{folder}:{os.environ['PATH']}") | manifests.node.environment()
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def flags(manifests: Manifests, folder: Path) -> dict[str, str]:
    done = print_config(manifests, folder)
    assert done.returncode == 0, f"{manifests.name}: {done.stderr}"
    return dict(re.findall(r"^--(\w+)=(.*)$", done.stdout, re.MULTILINE))
