"""What deploy/kubernetes says, checked without a Kubernetes: by its schemas, by the real programs, and against itself."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Iterator

import kubernetes_validate
import pytest
import yaml

from support.cluster import Cluster, agree, info
from support.daemon import BUILD, ROOT, Cli, clean_environment
from support.etcd import Etcd, needs_etcd_reason
from support.grpc_health import SERVING, health
from support.kustomize import identity, render
from support.manifests import Container, Manifests, Workload, flags, print_config, size

FOLDER = ROOT / "deploy" / "kubernetes"
OLDEST = "1.27"  # README.md says so: gRPC probes
SOCKET_DIR = "/run/penstock"
NOT_OF_KUBERNETES = {"ServiceMonitor"}
# Who may do more than nothing: workload, container, capabilities. Only root's capabilities are of use in Kubernetes.
ROOTS = {("penstock-node", "socket-directory"): [], ("penstock-node", "penstockd"): ["IPC_LOCK"]}


def names(folder: str) -> list[str]:
    return sorted(entry.name for entry in (FOLDER / folder).iterdir())


STORES = [*names("overlays"), "everything"]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All components at once, in another namespace: people put them together as they like."""
    made = tmp_path_factory.mktemp("everything")
    way = os.path.relpath(FOLDER, made.resolve())
    (made / "kustomization.yaml").write_text(yaml.dump({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "elsewhere",
        "resources": [f"{way}/base"], "components": [f"{way}/components/{name}" for name in names("components")]}))
    return made


def folder_of(name: str, everything: Path) -> Path:
    return everything if name == "everything" else FOLDER / "examples" if name == "examples" else FOLDER / "overlays" / name


@pytest.fixture(scope="module", params=[*STORES, "examples"])
def manifests(request: pytest.FixtureRequest, everything: Path) -> Manifests:
    return Manifests(request.param, render(folder_of(request.param, everything)))


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest, everything: Path) -> Manifests:
    return Manifests(request.param, render(folder_of(request.param, everything)))


def kustomize_of_kubectl() -> str | None:
    """Why there is none to compare with; None: there is one."""
    if shutil.which("kubectl") is not None:
        done = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True)
        if done.returncode == 0 and "kustomizeVersion" in json.loads(done.stdout):
            return None
    return "needs kubectl 1.24 or newer to compare with; Debian's kustomize knows no components"


@cache
def refusal(resource: str, version: str) -> str | None:
    try:
        kubernetes_validate.validate(json.loads(resource), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(str(step) for step in error.absolute_path)}: {error.message}"
    return None


def test_kubectl_renders_the_same(everything):
    if why := kustomize_of_kubectl():
        pytest.skip(why)
    for folder in (folder_of(name, everything) for name in [*STORES, "examples"]):
        done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert sorted(yaml.safe_load_all(done.stdout), key=identity) == sorted(render(folder), key=identity), folder


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_kubernetes_knows_every_field(manifests, version):
    for resource in manifests.resources:
        if resource["kind"] not in NOT_OF_KUBERNETES:
            assert refusal(json.dumps(resource), version) is None, identity(resource)


def test_what_kubernetes_does_not_know_is_refused():
    node = copy.deepcopy(Manifests("", render(FOLDER / "overlays" / "cluster")).named("DaemonSet", "penstock-node"))
    node["spec"]["template"]["spec"]["hostIpc"] = True
    assert "hostIpc" in str(refusal(json.dumps(node), OLDEST))


# --- What belongs together -------------------------------------------------------------------------------------------------


def selectors(resource: dict[str, Any]) -> Iterator[dict[str, str]]:
    spec = resource["spec"]
    match resource["kind"]:
        case "Service":
            yield spec["selector"]
        case "NetworkPolicy":
            yield spec["podSelector"]["matchLabels"]
            for rule in spec["ingress"]:  # nobody is let in by an empty rule
                yield from (peer["podSelector"]["matchLabels"] for peer in rule["from"] if "namespaceSelector" not in peer)
        case "PodDisruptionBudget" | "DaemonSet" | "StatefulSet" | "Deployment":
            yield spec["selector"]["matchLabels"]


def test_each_selector_is_that_of_one_workload(manifests):
    for resource in manifests.resources:
        for labels in selectors(resource) if "spec" in resource else ():
            assert len(manifests.selected(labels)) == 1, (identity(resource), labels)
    for workload in manifests.workloads():
        if workload.kind != "Job":
            assert [found.name for found in manifests.selected(workload.spec["selector"]["matchLabels"])] == [workload.name]
        for rule in workload.pod.get("affinity", {}).get("podAntiAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", []):
            assert manifests.selected(rule["labelSelector"]["matchLabels"]) == [workload]


def test_services_and_policies_name_ports_of_their_pods(manifests):
    for resource in manifests.of("Service") + manifests.of("NetworkPolicy"):
        (workload,) = manifests.selected(next(selectors(resource)))
        (container,) = (container for container in workload.containers() if not container.is_init)
        if resource["kind"] == "Service":
            for port in resource["spec"]["ports"]:
                assert container.ports()[port["targetPort"]] == port["port"] and port["name"] == port["targetPort"], identity(resource)
        else:
            for rule in resource["spec"]["ingress"]:
                assert rule["from"] and {port["port"] for port in rule["ports"]} <= container.ports().keys(), identity(resource)


def test_every_pod_of_the_store_has_a_policy_and_a_budget(store):
    for workload in store.workloads():
        for kind in ("NetworkPolicy", "PodDisruptionBudget"):
            assert [one for one in store.of(kind) if store.selected(next(selectors(one))) == [workload]], (workload.name, kind)


def test_what_is_named_is_there(manifests):
    for workload in manifests.workloads():
        volumes = {name for name in workload.volumes()} | {one["metadata"]["name"] for one in workload.spec.get("volumeClaimTemplates", [])}
        assert {mount["name"] for container in workload.containers() for mount in container.mounts().values()} == volumes, workload.name
        if account := workload.pod.get("serviceAccountName"):
            assert manifests.named("ServiceAccount", account)
        if workload.kind == "StatefulSet":
            service = manifests.named("Service", workload.spec["serviceName"])
            assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
            assert manifests.selected(service["spec"]["selector"]) == [workload]


def test_prometheus_finds_the_port(manifests):
    for monitor in manifests.of("ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"]
        services = [one for one in manifests.of("Service") if labels.items() <= one["metadata"]["labels"].items()]
        # Of any other Service that it takes, it would scrape the same pods twice.
        assert sum(endpoint["port"] == port["name"] for one in services for port in one["spec"]["ports"] for endpoint in monitor["spec"]["endpoints"]) == 1
        assert all(endpoint["path"] == "/metrics" for endpoint in monitor["spec"]["endpoints"])


def test_all_is_in_one_namespace(manifests):
    there = {one["metadata"]["name" if one["kind"] == "Namespace" else "namespace"] for one in manifests.resources}
    assert there == {"elsewhere" if manifests.name == "everything" else "penstock"}


# --- What the node is told -------------------------------------------------------------------------------------------------


def test_the_real_penstockd_takes_command_flagfile_and_environment(store, tmp_path):
    told = flags(store, tmp_path)
    for name in store.node.environment():
        assert not name.startswith("PENSTOCK_") or name.removeprefix("PENSTOCK_").lower() in told, f"{name} is no flag"
    for flag in re.findall(r"^--(\w+)=", store.flagfile()[1], re.MULTILINE):
        assert flag in told
    assert (told["host"], told["data_net"], told["http_net"], told["host_label"]) == ("127.1.2.3",) * 3 + ("host-1",)
    refused = print_config(store, tmp_path, "--memori=1GiB\n")
    assert refused.returncode == 2 and "memori" in refused.stderr, "a wrong line would not be seen"


def test_the_container_has_the_ports_that_the_flags_open(store, tmp_path):
    told = flags(store, tmp_path)
    assert store.node.ports() == {name: int(told[f"{name}_port"]) for name in ("grpc", "data", "http")}


def test_probes_ask_what_is_there(store, tmp_path):
    told = flags(store, tmp_path)
    for workload, container in store.containers():
        if container.is_init:
            continue
        probes = container.probes()
        assert {"readinessProbe", "livenessProbe"} <= probes.keys(), container.name
        for kind, probe in probes.items():
            where = (workload.name, kind)
            for handler in ("httpGet", "tcpSocket"):
                if handler in probe:
                    assert probe[handler]["port"] in container.ports(), where
            if "grpc" in probe:  # by number only, and without TLS
                assert probe["grpc"] == {"port": container.ports()["grpc"]} and not told["tls_cert"], where
            if container.name == "penstockd":
                assert len({"grpc", "exec"} & probe.keys()) == 1, where
    patience = {kind: probe["periodSeconds"] * probe["failureThreshold"] for kind, probe in store.node.probes().items()}
    assert patience["livenessProbe"] >= 60 and patience["startupProbe"] >= 60


def test_memory_limits_leave_room_beside_the_tensors(store, tmp_path):
    told, node = flags(store, tmp_path), store.node
    memory = size(told["memory"])
    # README.md, "Size". Below --memory + 64 MiB + what it uses at the start, the node would take less than it was told to.
    assert node.limit("memory") >= memory + max(memory // 8, 192 << 20)
    in_huge_pages = told["huge_pages"] == "hugetlb"
    assert in_huge_pages == (node.limit("hugepages-2Mi") >= memory)
    assert in_huge_pages or told["huge_pages"] in ("thp", "off"), "the pod would get no reserved page"
    requests, limits = (node.spec["resources"][part] for part in ("requests", "limits"))
    assert in_huge_pages or requests["memory"] == limits["memory"], "memory that others may take is none for tensors"
    assert all(requests[what] == amount for what, amount in limits.items() if what not in ("memory", "cpu"))


def test_the_nodes_are_told_of_the_etcd_that_is_there(store, tmp_path):
    sets = [workload for workload in store.workloads() if workload.kind == "StatefulSet"]
    told = flags(store, tmp_path)["etcd"]
    if not sets:
        assert told == "", "an etcd that nobody starts"
        return
    (members,) = sets
    (container,) = members.containers()
    hosts = [f"{members.name}-{i}.{members.spec['serviceName']}" for i in range(members.spec["replicas"])]
    assert told.split(",") == [f"{host}:{container.ports()['client']}" for host in hosts]
    words = dict(word.removeprefix("--").split("=", 1) for word in container.spec["command"][1:])
    assert words["initial-cluster"].split(",") == [f"{host.split('.')[0]}=http://{host}:{container.ports()['peer']}" for host in hosts]
    for flag, port in (("listen-client-urls", "client"), ("listen-peer-urls", "peer"), ("listen-metrics-urls", "metrics")):
        assert words[flag] == f"http://0.0.0.0:{container.ports()[port]}"
    (mount,) = container.mounts()
    assert words["data-dir"].startswith(f"{mount}/"), "not on the volume"
    assert container.limit("memory") >= int(words["quota-backend-bytes"]) // 2, "etcd maps its database"
    if shutil.which("etcd"):
        known = subprocess.run(["etcd", "--help"], capture_output=True, text=True)
        assert not [flag for flag in words if not re.search(rf"^  --{flag}\b", known.stdout + known.stderr, re.MULTILINE)]


def test_tls_names_files_that_are_mounted_and_a_host_that_a_certificate_can_name(store, tmp_path):
    told = flags(store, tmp_path)
    if not told["tls_cert"]:
        assert told["advertise"] in ("", told["host"])
        return
    for flag in ("tls_ca", "tls_cert", "tls_key"):
        folder, file = told[flag].rsplit("/", 1)
        assert store.node.mounts()[folder]["name"] == "tls" and file in ("ca.crt", "tls.crt", "tls.key")
    secret = store.workload("penstock-node").volumes()["tls"]["secret"]
    assert secret["defaultMode"] == 0o440 and store.node.pod["securityContext"]["fsGroup"] == store.node.security("runAsGroup")
    host, service, namespace, end = told["advertise"].split(".")
    assert (host, namespace, end) == ("127-1-2-3", "penstock", "svc")
    assert store.named("Service", service)["spec"]["clusterIP"] == "None"


def test_images_are_of_this_version(store):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for workload, container in store.containers():
        image, _, tag = container.spec["image"].partition(":")
        assert tag and tag != "latest"
        assert image != "penstock" or tag == version
        assert (image == "penstock") == (workload.name == "penstock-node")


# --- What they may do ------------------------------------------------------------------------------------------------------


def test_no_pod_has_more_of_its_host_than_the_socket_directory(manifests):
    for workload in manifests.workloads():
        for field in ("hostIPC", "hostPID", "hostNetwork", "shareProcessNamespace"):
            assert not workload.pod.get(field), (workload.name, field)
        assert workload.pod["automountServiceAccountToken"] is False and workload.pod["enableServiceLinks"] is False
        assert {volume["hostPath"]["path"] for volume in workload.volumes().values() if "hostPath" in volume} <= {SOCKET_DIR}


def test_no_container_may_do_more_than_it_needs(manifests):
    for workload, container in manifests.containers():
        where = (workload.name, container.name)
        own = container.spec["securityContext"]
        assert not own.get("privileged") and own["allowPrivilegeEscalation"] is False, where
        assert own["readOnlyRootFilesystem"] is True and own["capabilities"]["drop"] == ["ALL"], where
        assert container.security("seccompProfile") == {"type": "RuntimeDefault"}, where
        assert container.limit("memory") > 0, where
        if container.security("runAsUser") == 0:
            assert own["capabilities"].get("add", []) == ROOTS[where], f"{where}: who is root for nothing should not be root"
        else:
            assert container.security("runAsNonRoot") is True and container.security("runAsUser") > 0, where
            assert "add" not in own["capabilities"], f"{where}: capabilities are lost at exec by a user who is not root"


def test_only_rdma_makes_the_node_root(store):
    devices = [what for what in store.node.spec["resources"]["limits"] if what.startswith("rdma/")]
    assert (store.node.security("runAsUser") == 0) == bool(devices) == (store.name in ("rdma", "everything"))


# --- Pods of one host ------------------------------------------------------------------------------------------------------


def socket_mount(workload: Workload, container: Container) -> tuple[str, dict[str, Any], dict[str, Any]]:
    return next((path, mount, workload.volumes()[mount["name"]]["hostPath"]) for path, mount in container.mounts().items()
                if "hostPath" in workload.volumes()[mount["name"]])


def test_nodes_and_their_users_share_one_directory_and_a_group(store, tmp_path):
    told, group = flags(store, tmp_path), store.node.security("runAsGroup")
    node = store.workload("penstock-node")
    assert int(told["socket_mode"], 8) == 0o770
    init = node.container("socket-directory")
    assert init.spec["command"] == ["install", "-d", "-m", "0770", "-g", str(group), SOCKET_DIR] and init.security("runAsGroup") == group
    for container in node.containers():
        path, mount, host = socket_mount(node, container)
        assert (path, host) == (told["socket_dir"], {"path": SOCKET_DIR, "type": "DirectoryOrCreate"}) and not mount.get("readOnly")
    users = Manifests("examples", render(FOLDER / "examples"))
    assert [workload.kind for workload in users.workloads()] == ["Job", "Deployment"]
    for workload, container in users.containers():
        path, mount, host = socket_mount(workload, container)
        assert (path, host, mount["readOnly"]) == (container.environment()["PENSTOCK_ADDRESS"], {"path": SOCKET_DIR, "type": "Directory"}, True)
        assert group in workload.pod["securityContext"]["supplementalGroups"]


# --- How pods end ----------------------------------------------------------------------------------------------------------


def drain_command(store: Manifests) -> str:
    return store.node.spec["lifecycle"]["preStop"]["exec"]["command"][-1]


def test_a_node_has_time_to_drain_and_then_to_end(store, tmp_path):
    told, node = flags(store, tmp_path), store.workload("penstock-node")
    assert node.spec["updateStrategy"] == {"type": "OnDelete"}
    if not told["etcd"]:
        assert "lifecycle" not in store.node.spec, "nobody to drain to"
        return
    seconds = int(re.search(r"timeout (\d+) penstock drain", drain_command(store))[1])
    assert node.pod["terminationGracePeriodSeconds"] >= seconds + 30
    assert seconds >= 2 * size(told["memory"]) / size(told["repair_bandwidth"]), "a full node, at half of the rate"
    # The kubelet runs preStop also before it ends a container that does not answer, which cannot drain.
    assert store.node.probes()["livenessProbe"]["terminationGracePeriodSeconds"] < seconds


def test_budgets_can_be_kept(store):
    for budget in (one["spec"] for one in store.of("PodDisruptionBudget")):
        (workload,) = store.selected(budget["selector"]["matchLabels"])
        if workload.kind == "DaemonSet":  # it has no scale: the controller counts by minAvailable alone
            assert isinstance(budget["minAvailable"], int) and "maxUnavailable" not in budget
        else:
            assert 2 * (workload.spec["replicas"] - budget["maxUnavailable"]) > workload.spec["replicas"], "no majority"


# --- With real nodes -------------------------------------------------------------------------------------------------------


def run_in_pod(command: list[str], socket_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [word.replace(SOCKET_DIR, str(socket_dir)) for word in command]
    path = f"{BUILD}/bin:{os.environ['PATH']}"
    return subprocess.run(words, env=clean_environment(PATH=path, **environment), capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(needs_etcd_reason is not None, reason=str(needs_etcd_reason))
def test_prestop_drains_this_node_and_no_other(short_tmp):
    overlay = Manifests("cluster", render(FOLDER / "overlays" / "cluster"))
    with Etcd(short_tmp / "kubernetes-etcd") as etcd:
        cluster = Cluster(short_tmp, etcd, "prestop")
        try:
            stores = cluster.start_all(3)
            for i, one in enumerate(stores):
                one.put(f"x/{i}", bytes(1000))
            own = [info(daemon)["node_uuid"] for daemon in cluster.daemons]
            listed = [node["node_uuid"] for node in info(cluster.daemons[0])["cluster"]["nodes"]]
            leaving = own.index(listed[1])  # neither the first nor the last of those that `nodes` tells
            done = run_in_pod(overlay.node.spec["lifecycle"]["preStop"]["exec"]["command"], cluster.daemons[leaving].socket_dir)
            assert done.returncode == 0 and f"node {own[leaving]} is drained" in done.stdout, done
            states = {node["node_uuid"]: node["state"] for node in info(cluster.daemons[leaving])["cluster"]["nodes"]}
            assert states == {uuid: "draining" if uuid == own[leaving] else "up" for uuid in own}
            for i, uuid in enumerate(own):
                assert (stores[leaving].stat(f"x/{i}").nodes == [uuid]) == (i != leaving)
        finally:
            cluster.stop()


def test_a_node_answers_the_probes_of_the_overlays(daemon):
    host, _, port = info(daemon)["tcp_address"].rpartition(":")
    assert health(host, int(port)) == SERVING
    for name in names("overlays"):
        for probe in Manifests(name, render(FOLDER / "overlays" / name)).node.probes().values():
            if "exec" in probe:
                assert run_in_pod(probe["exec"]["command"], daemon.socket_dir).returncode == 0
                assert run_in_pod(probe["exec"]["command"], daemon.socket_dir / "none").returncode != 0


def test_the_examples_do_what_they_say(daemon):
    examples = Manifests("examples", render(FOLDER / "examples"))
    (training,), (inference,) = (list(workload.containers()) for workload in examples.workloads())
    environment = {"PENSTOCK_ADDRESS": str(daemon.socket_dir), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}

    def words(container: Container) -> list[str]:
        assert container.spec["command"][:2] == ["python3", "-c"]
        return [sys.executable, *container.spec["command"][1:]]

    done = run_in_pod(words(training), daemon.socket_dir, **environment)
    assert done.stdout == "snapshot 100: 8.000 of 8\n", done
    with subprocess.Popen(words(inference), env=clean_environment(**environment), stdout=subprocess.PIPE, text=True) as worker:
        try:
            lines = [worker.stdout.readline()]
            assert lines == ["from snapshot 100: 8.000 of 8\n"]
            run_in_pod(words(training), daemon.socket_dir, **environment)
            while not lines[-1].startswith("from snapshot 200:"):
                lines.append(worker.stdout.readline())
                assert lines[-1] > lines[-2], "none twice: it waits"
        finally:
            worker.kill()
