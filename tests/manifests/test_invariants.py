"""What has to hold between the manifests, and between them and the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import yaml

from broker.run_keys import QUEUE_NAME
from gateway.autoscaling import LAG_PER_REPLICA, PENDING_PER_REPLICA
from shared.bus import keys
from shared.contracts.skills import AgentName
from shared.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
Objects = list[dict[str, Any]]
WORKLOADS = ("Deployment", "StatefulSet", "Job")
GPU = "nvidia.com/gpu"
OTHERS_READ = {  # variables that no setting of ours is, and who reads them
    "HF_HOME": "the Hugging Face hub's library",
    "HF_TOKEN": "the same, for gated models",
    "OPENAI_BASE_URL": "agents.backends.openai",
    "OPENAI_API_KEY": "agents.backends.openai",
    "REDIS_PASSWORD_FILE": "docker/redis-start",
    "QDRANT__STORAGE__SNAPSHOTS_PATH": "Qdrant",
    "QDRANT__TELEMETRY_DISABLED": "Qdrant",
    "QDRANT_INIT_FILE_PATH": "Qdrant's start script",
}
SETTINGS = {f"XR_{field.upper()}" for field in Settings.__struct_fields__}


class Loader(yaml.SafeLoader):
    """Knows Compose's tags for what an override takes away or replaces."""


Loader.add_constructor("!reset", lambda _loader, _node: None)
Loader.add_constructor("!override", lambda _loader, _node: None)


def of_kind(objects: Objects, *kinds: str) -> Objects:
    return [one for one in objects if one["kind"] in kinds]


def named(objects: Objects, kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in of_kind(objects, kind)}


def pods(objects: Objects) -> dict[str, dict[str, Any]]:
    """Name of a workload -> the specification of its pods."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in of_kind(objects, *WORKLOADS)
    }


def test_selectors_match_the_pods_they_are_about(objects: Objects) -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in of_kind(objects, *WORKLOADS)]
    for one in of_kind(objects, "Deployment", "StatefulSet"):
        wanted = one["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    for one in of_kind(objects, "Service", "PodDisruptionBudget"):
        selector = one["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= found.items() for found in labels), one["metadata"]["name"]


def test_every_name_referenced_exists(objects: Objects) -> None:
    claims, config = named(objects, "PersistentVolumeClaim"), named(objects, "ConfigMap")
    accounts = named(objects, "ServiceAccount")
    for name, pod in pods(objects).items():
        assert pod["serviceAccountName"] in accounts
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, name
            if "secret" in volume:  # made by hand, as the overlays say
                assert volume["secret"]["secretName"] == "xr-redis"
        for container in pod["containers"]:
            for source in container.get("envFrom", ()):
                assert source["configMapRef"]["name"] in config
            kept = {claim["metadata"]["name"] for one in of_kind(objects, "StatefulSet")
                    if one["metadata"]["name"] == name
                    for claim in one["spec"]["volumeClaimTemplates"]}  # fmt: skip
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys() | kept
    for one in of_kind(objects, "ScaledObject"):
        assert one["spec"]["scaleTargetRef"]["name"] in named(objects, "Deployment")
        for trigger in one["spec"]["triggers"]:
            assert trigger["authenticationRef"]["name"] in named(objects, "TriggerAuthentication")


def test_ports_and_probes_are_those_of_the_code(objects: Objects) -> None:
    data = named(objects, "ConfigMap")["xr-settings"]["data"]
    sources = [ROOT / "gateway/routes/health.py", ROOT / "shared/health_server.py"]
    for one in of_kind(objects, "Deployment"):
        name = one["metadata"]["name"]
        (container,) = one["spec"]["template"]["spec"]["containers"]
        (port,) = container["ports"]
        setting = "XR_GATEWAY_PORT" if name == "gateway" else "XR_HEALTH_PORT"
        assert str(port["containerPort"]) == data[setting]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["port"] == port["name"]
            assert f'"{asked["path"]}"' in sources[name != "gateway"].read_text()


def test_the_grace_is_longer_than_what_the_code_takes(objects: Objects) -> None:
    grace_s = float(named(objects, "ConfigMap")["xr-settings"]["data"]["XR_GRACE_S"])
    for name, pod in pods(objects).items():
        if name in get_args(AgentName):
            assert pod["terminationGracePeriodSeconds"] > grace_s + 5


def test_a_gpu_is_requested_as_often_as_it_is_the_limit(objects: Objects, overlay: str) -> None:
    for name, pod in pods(objects).items():
        resources = pod["containers"][0]["resources"]
        wanted = resources["limits"].get(GPU)
        assert wanted == resources["requests"].get(GPU)
        if name in get_args(AgentName):
            assert (wanted == "1") == (overlay != "demo-cpu")
            tolerated = {one["key"] for one in pod.get("tolerations", ())}
            assert (GPU in tolerated) == (overlay != "demo-cpu")


def test_a_scaler_alone_owns_the_number_of_replicas(objects: Objects, overlay: str) -> None:
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(objects, "ScaledObject")}
    assert scaled == ({*get_args(AgentName), "coordinator"} if overlay == "keda" else set())
    for name, one in named(objects, "Deployment").items():
        assert ("replicas" in one["spec"]) == (name not in scaled), name


def test_the_scalers_read_the_queues_of_the_code_by_the_figures_of_the_host(
    objects: Objects,
) -> None:
    for one in of_kind(objects, "ScaledObject"):
        agent = one["metadata"]["name"]
        metadata = [trigger["metadata"] for trigger in one["spec"]["triggers"]]
        lists = {entry["listName"] for entry in metadata if "listName" in entry}
        assert lists == {f"rq:queue:{QUEUE_NAME}", f"rq:wip:{QUEUE_NAME}"}
        streams = [entry for entry in metadata if "stream" in entry]
        if agent in get_args(AgentName):
            assert {entry["stream"] for entry in streams} == set(keys.request_streams(agent))
            assert {entry["consumerGroup"] for entry in streams} == {keys.GROUP}
            lags = {entry["lagCount"] for entry in streams if "lagCount" in entry}
            pending = {e["pendingEntriesCount"] for e in streams if "pendingEntriesCount" in e}
            assert (lags, pending) == ({str(LAG_PER_REPLICA)}, {str(PENDING_PER_REPLICA)})


def test_every_pod_is_restricted(objects: Objects) -> None:
    for name, pod in pods(objects).items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name


def test_images_are_those_that_are_built(objects: Objects) -> None:
    built = {f"xr-{path.suffix[1:]}" for path in (ROOT / "docker").glob("Dockerfile.*")}
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    for pod in pods(objects).values():
        for container in pod["containers"]:
            image, _, tag = container["image"].partition(":")
            assert (image in built, tag) == (True, version[1]), container["image"]


def test_variables_in_the_manifests_are_settings_that_exist(objects: Objects) -> None:
    given = {name for one in of_kind(objects, "ConfigMap") for name in one["data"]}
    for pod in pods(objects).values():
        given |= {entry["name"] for c in pod["containers"] for entry in c.get("env", ())}
    assert given - OTHERS_READ.keys() <= SETTINGS


def test_variables_in_compose_are_settings_that_exist() -> None:
    given: set[str] = set()
    for file in ("compose.yaml", "compose.cpu.yaml"):
        project = yaml.load((ROOT / file).read_text(), Loader)
        for service in project["services"].values():
            given |= set(service.get("environment", {}))
    assert given - OTHERS_READ.keys() <= SETTINGS
    assert "XR_REDIS_PASSWORD_FILE" in given


def test_variables_in_the_images_are_settings_that_exist() -> None:
    for file in (ROOT / "docker").glob("Dockerfile.*"):
        assert set(re.findall(r"\b(XR_[A-Z_]+)=", file.read_text())) <= SETTINGS, file
