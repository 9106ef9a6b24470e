"""Renders the part of kustomize that deploy/kubernetes uses, as `kubectl kustomize` does.

Resources, components, strategic merge patches and the namespace; whatever else stands in a kustomization.yaml is an error that
names it. Debian's kubectl is too old for components, so tests cannot count on it; where a newer one is installed,
test_kubernetes.py compares.

    render(Path("deploy/kubernetes/overlays/rdma")) -> [{"kind": "Namespace", ...}, ...]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

KINDS = {"Kustomization": "kustomize.config.k8s.io/v1beta1", "Component": "kustomize.config.k8s.io/v1alpha1"}
# A list below one of these fields is merged by this key of its items; other lists are replaced.
MERGE_KEYS = {"containers": "name", "initContainers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath"}
NOT_IN_A_NAMESPACE = {"Namespace"}


class KustomizeError(ValueError):
    """Says which file, and which field of it."""


def render(folder: Path) -> list[Resource]:
    return _accumulate(folder, "Kustomization", [])


def _accumulate(folder: Path, kind: str, so_far: list[Resource]) -> list[Resource]:
    """`so_far` with what the folder adds, and changed as it says: a component's patches reach what was there before it."""
    file = folder / "kustomization.yaml"
    (wanted,) = _documents(file)
    if (wanted.pop("kind", None), wanted.pop("apiVersion", None)) != (kind, KINDS[kind]):
        raise KustomizeError(f"{file}: kind and apiVersion must be {kind} of {KINDS[kind]}")
    resources = list(so_far)
    for name in wanted.pop("resources", []):
        below = folder / name
        resources += _accumulate(below, "Kustomization", []) if below.is_dir() else _resources(below)
        _check_unique(file, resources)
    for name in wanted.pop("components", []):
        resources = _accumulate(folder / name, "Component", resources)
    for patch in wanted.pop("patches", []):
        if set(patch) != {"path"}:
            raise KustomizeError(f"{file}: patches: {patch}: only a path is known here")
        for document in _resources(folder / patch["path"]):
            _patch(folder / patch["path"], resources, document)
    namespace = wanted.pop("namespace", None)
    if wanted:
        raise KustomizeError(f"{file}: {', '.join(sorted(wanted))}: not known here")
    if namespace is not None:
        for resource in resources:
            metadata = resource["metadata"]
            metadata["name" if resource["kind"] in NOT_IN_A_NAMESPACE else "namespace"] = namespace
    return resources


def _documents(file: Path) -> list[Resource]:
    if not file.is_file():
        raise KustomizeError(f"{file}: no such file")
    return [_unshared(document) for document in yaml.safe_load_all(file.read_text("utf-8")) if document is not None]


def _resources(file: Path) -> list[Resource]:
    documents = _documents(file)
    for document in documents:
        for field in ("apiVersion", "kind", "metadata"):
            if field not in document:
                raise KustomizeError(f"{file}: a resource without {field}")
    return documents


def _unshared(value: Any) -> Any:
    """A YAML alias is one object in several places; a change must reach one of them only."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def identity(resource: Resource) -> tuple[str, str, str]:
    return resource["apiVersion"], resource["kind"], resource["metadata"]["name"]


def _check_unique(file: Path, resources: list[Resource]) -> None:
    seen = [identity(resource) for resource in resources]
    for one in seen:
        if seen.count(one) > 1:
            raise KustomizeError(f"{file}: resources: {one} is there twice")


def _patch(file: Path, resources: list[Resource], patch: Resource) -> None:
    for at, resource in enumerate(resources):
        if identity(resource) == identity(patch):
            resources[at] = merge(resource, patch)
            return
    raise KustomizeError(f"{file}: no resource is {identity(patch)}")


def merge(base: Any, patch: Any, field: str = "") -> Any:
    """A strategic merge: maps field by field, null removes a field, lists by MERGE_KEYS with new items first."""
    if isinstance(base, dict) and isinstance(patch, dict):
        merged = {name: value for name, value in base.items() if not (name in patch and patch[name] is None)}
        for name, value in patch.items():
            if value is not None:
                merged[name] = merge(merged.get(name), value, name)
        return merged
    key = MERGE_KEYS.get(field)
    if isinstance(patch, list) and key is not None:
        old = base if isinstance(base, list) else []
        new = {item[key]: item for item in patch}
        known = {item[key] for item in old}
        return [merge(None, item) for item in patch if item[key] not in known] + \
            [merge(item, new[item[key]]) if item[key] in new else item for item in old]
    if isinstance(patch, dict):
        return merge({}, patch)  # without its nulls
    return patch
