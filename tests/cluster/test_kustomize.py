"""The renderer of deploy/kubernetes's manifests: what it merges, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from support.kustomize import KustomizeError, merge, render

BASE = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: node, labels: &labels {app: x}}
spec:
  selector: {matchLabels: *labels}
  template:
    spec:
      containers:
        - {name: a, image: one, command: [run, fast], env: [{name: A, value: "1"}, {name: B, value: "2"}], probe: {grpc: {port: 1}}}
        - {name: b, image: two}
"""


def write(folder: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else yaml.dump(content))
    return folder


def kustomization(kind: str = "Kustomization", **fields: object) -> dict[str, object]:
    version = "v1beta1" if kind == "Kustomization" else "v1alpha1"
    return {"apiVersion": f"kustomize.config.k8s.io/{version}", "kind": kind, **fields}


def patch(**fields: object) -> dict[str, object]:
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "node"}, **fields}


def of_container(**fields: object) -> dict[str, object]:
    return patch(spec={"template": {"spec": {"containers": [{"name": "a", **fields}]}}})


def patched(folder: Path, change: dict[str, object]) -> dict:
    write(folder, {"set.yaml": BASE, "change.yaml": change,
                   "kustomization.yaml": kustomization(resources=["set.yaml"], patches=[{"path": "change.yaml"}])})
    return render(folder)[0]


def test_without_a_patch_it_is_what_was_written(tmp_path):
    write(tmp_path, {"set.yaml": BASE, "kustomization.yaml": kustomization(resources=["set.yaml"])})
    assert render(tmp_path) == [yaml.safe_load(BASE)]


def test_lists_with_names_are_merged_and_others_replaced(tmp_path):
    change = of_container(command=["run"], env=[{"name": "B", "value": "3"}, {"name": "C", "value": "4"}])
    a, b = patched(tmp_path, change)["spec"]["template"]["spec"]["containers"]
    assert a["command"] == ["run"] and a["image"] == "one" and b == {"name": "b", "image": "two"}
    assert a["env"] == [{"name": "C", "value": "4"}, {"name": "A", "value": "1"}, {"name": "B", "value": "3"}]


def test_null_removes_a_field(tmp_path):
    a = patched(tmp_path, of_container(image=None, probe={"grpc": None, "exec": {"command": ["x"]}}))["spec"]["template"]["spec"]["containers"][0]
    assert "image" not in a and a["probe"] == {"exec": {"command": ["x"]}}
    assert merge({}, {"probe": {"grpc": None, "exec": 1}}) == {"probe": {"exec": 1}}


def test_a_patch_changes_one_place_of_an_alias(tmp_path):
    result = patched(tmp_path, patch(metadata={"name": "node", "labels": {"more": "y"}}))
    assert result["metadata"]["labels"] == {"app": "x", "more": "y"}
    assert result["spec"]["selector"]["matchLabels"] == {"app": "x"}


def test_a_component_changes_what_was_there_before_it(tmp_path):
    write(tmp_path, {
        "base/set.yaml": BASE, "base/kustomization.yaml": kustomization(resources=["set.yaml"], namespace="first"),
        "part/more.yaml": {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "first"}},
        "part/change.yaml": of_container(image="three"),
        "part/kustomization.yaml": kustomization("Component", resources=["more.yaml"], patches=[{"path": "change.yaml"}]),
        "top/kustomization.yaml": kustomization(resources=["../base"], components=["../part"], namespace="second"),
    })
    node, namespace = render(tmp_path / "top")
    assert node["spec"]["template"]["spec"]["containers"][0]["image"] == "three"
    assert (node["metadata"]["namespace"], namespace["metadata"]) == ("second", {"name": "second"})


@pytest.mark.parametrize(("files", "told"), [
    ({"kustomization.yaml": kustomization(resources=["gone.yaml"])}, "gone.yaml: no such file"),
    ({"kustomization.yaml": kustomization(images=[])}, "images: not known here"),
    ({"kustomization.yaml": kustomization("Component")}, "kind and apiVersion must be Kustomization"),
    ({"kustomization.yaml": kustomization(patches=[{"target": {}, "path": "x"}])}, "patches: .*only a path"),
    ({"kustomization.yaml": kustomization(patches=[{"path": "x.yaml"}]), "x.yaml": patch()}, "x.yaml: no resource is .*'node'"),
    ({"kustomization.yaml": kustomization(resources=["x.yaml", "x.yaml"]), "x.yaml": patch()}, "'node'.* twice"),
    ({"kustomization.yaml": kustomization(resources=["x.yaml"]), "x.yaml": {"metadata": {"name": "x"}}}, "a resource without apiVersion"),
])
def test_what_it_does_not_know_is_named(tmp_path, files, told):
    with pytest.raises(KustomizeError, match=told):
        render(write(tmp_path, files))
