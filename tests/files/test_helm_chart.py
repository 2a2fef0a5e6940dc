# SPDX-License-Identifier: Apache-2.0
"""docker/helm: the chart, rendered by Helm's own library and held to the schemas of Kubernetes and KServe."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from flagtriton_tools.cli.container import ContainerSettings
from flagtriton_tools.cli.main import cli
from tests.support.paths import GOLDEN, ROOT

helm = pytest.importorskip("helm_python", reason="pip install helm-python-sdk")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")

CHART = ROOT / "docker" / "helm" / "flagtriton"
KSERVE = json.loads((GOLDEN / "kserve_fields.json").read_text())["fields"]
OLDEST, NEWEST = "1.30", "1.34"

VALUES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "GPUs": {
        "models": ["BAAI/bge-m3 --device gpu:0,1 --instances 2", "BAAI/bge-reranker-v2-m3 --device gpu:0"],
        "gpu": {"count": 2},
        "nodeSelector": {"accelerator": "h200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "sharedMemory": "8Gi",
        "priorityClassName": "search",
    },
    "everything": {
        "autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 30},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
        "networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "search"}}}], "egress": False},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "cache": {"existingClaim": "weights"},
        "hubTokenSecret": "hub",
        "adminSecret": "mine",
        "offline": True,
        "serve": ["--request-log", "/dev/stdout"],
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "search"},
        "env": [{"name": "A", "value": "b"}],
        "image": {"repository": "example.com/flagtriton", "tag": "x", "pullSecrets": [{"name": "pull"}]},
        "affinity": {"nodeAffinity": {}},
    },
    "bare": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "spread": False,
        "models": [],
    },
    "KServe": {"kserve": {"enabled": True}, "gpu": {"count": 1}, "serviceMonitor": {"enabled": True}},
}
OWN = {"monitoring.coreos.com/v1", "serving.kserve.io/v1alpha1", "serving.kserve.io/v1beta1"}
each_set = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)


def rendered(values: dict[str, Any], name: str = "search") -> list[dict[str, Any]]:
    """Return what the chart makes of some values."""
    made = helm.Chart.load(str(CHART)).render(values, name=name, namespace="ml")
    texts = [text for path, text in made.items() if not path.endswith("NOTES.txt")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def of_kind(values: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = [document for document in rendered(values) if document["kind"] == kind]
    return found


def pod_of(values: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = of_kind(values, "Deployment")["spec"]["template"]["spec"]
    return spec


def container_of(values: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(values)["containers"]
    return dict(container)


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


# Schemas.


@each_set
def test_helm_s_lint_finds_no_fault(values: dict[str, Any]) -> None:
    found = helm.lint(str(CHART), values, strict=True)
    assert found["errors"] == []
    assert {message["error"] for message in found["messages"]} <= {"icon is recommended"}


@each_set
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_resources_keep_to_kubernetes_schemas(values: dict[str, Any], version: str) -> None:
    checked = 0
    for document in rendered(values):
        if document["apiVersion"] not in OWN:
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
    assert checked >= 2


def test_a_field_that_kubernetes_does_not_know_would_be_noticed() -> None:
    document = of_kind({}, "Deployment")
    document["spec"]["template"]["spec"]["terminationGracePeriod"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, NEWEST, strict=True)


def unknown_fields(value: Any, type_: str, path: str) -> list[str]:
    """Return the paths of fields that KServe's types do not have; Kubernetes' own types are not looked into."""
    if type_.startswith("list["):
        return [each for item in value for each in unknown_fields(item, type_[5:-1], f"{path}[]")]
    if type_ not in KSERVE:
        return []
    known = KSERVE[type_]
    found = [f"{path}.{name}" for name in value if name not in known]
    for name in set(value) & set(known):
        found += unknown_fields(value[name], known[name], f"{path}.{name}")
    return found


def test_kserve_s_resources_have_fields_that_it_knows() -> None:
    values = VALUES["KServe"]
    runtime, service = of_kind(values, "ServingRuntime"), of_kind(values, "InferenceService")
    assert unknown_fields(runtime, "V1alpha1ServingRuntime", "") == []
    assert unknown_fields(service, "V1beta1InferenceService", "") == []
    runtime["spec"]["terminationGracePeriodSeconds"] = 3
    assert unknown_fields(runtime, "V1alpha1ServingRuntime", "") == [".spec.terminationGracePeriodSeconds"]


def test_kserve_s_replicas_are_a_pod_that_kubernetes_knows() -> None:
    """The runtime's container within what the InferenceService says of the pod."""
    runtime, service = of_kind(VALUES["KServe"], "ServingRuntime"), of_kind(VALUES["KServe"], "InferenceService")
    own = {"minReplicas", "maxReplicas", "model"}
    pod = {name: value for name, value in service["spec"]["predictor"].items() if name not in own}
    spec = {**pod, "containers": runtime["spec"]["containers"]}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    kubernetes_validate.validate(document, NEWEST, strict=True)
    mounts = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replica": 3}, "replica"),
        ({"models": ["a; b"]}, "models"),
        ({"gpu": {"count": -1}}, "gpu"),
        ({"sharedMemory": 2}, "sharedMemory"),
        ({"restartAfterSeconds": 5}, "restartAfterSeconds"),
    ],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(helm.HelmError, match=words):
        helm.Chart.load(str(CHART)).validate_schema(values)


# What replicas do.


@each_set
def test_the_container_understands_its_environment(values: dict[str, Any]) -> None:
    if "kserve" in values:
        container = of_kind(values, "ServingRuntime")["spec"]["containers"][0]
    else:
        container = container_of(values)
    settings = ContainerSettings.of(environment_of(container))
    assert [shlex.join(model) for model in settings.models] == values.get("models", ["BAAI/bge-m3"])
    assert settings.serving[-len(values.get("serve", [])) - 2 :] == ["--grace-period", "25", *values.get("serve", [])]
    known = {option for parameter in cli.commands["serve"].params for option in parameter.opts}
    assert {each for each in settings.serving if each.startswith("--")} <= known
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings.secret_file is not None
    assert {"/dev/shm", "/tmp", str(settings.repository), "/cache", str(settings.secret_file.parent)} == mounts


def test_every_mount_has_its_volume() -> None:
    for values in (VALUES["as it comes"], VALUES["everything"]):
        mounts = {mount["name"] for mount in container_of(values)["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod_of(values)["volumes"]}


def test_gpus_are_asked_for_and_memory_is_kept() -> None:
    resources = container_of(VALUES["GPUs"])["resources"]
    assert resources["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 2}
    assert resources["requests"] == {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": 2}
    assert "nvidia.com/gpu" not in container_of({})["resources"]["limits"]
    assert pod_of(VALUES["GPUs"])["nodeSelector"] == {"accelerator": "h200"}


def test_probes_ask_what_tells_a_dead_process() -> None:
    container = container_of({"startupMinutes": 5})
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/healthz", "readiness": "/healthz", "liveness": "/livez?within=300"}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 5 * 60


def test_there_is_time_to_drain() -> None:
    pod = pod_of({"gracePeriodSeconds": 60, "preStopSeconds": 7})
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] >= 60 + 7 + 5
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert "--grace-period' '60'" in environment_of(container)["FLAGTRITON_SERVE"]


def test_replicas_may_do_nothing_that_they_need_not() -> None:
    pod = pod_of({})
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 1000  # the image's
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_secrets_are_mounted_or_referred_to_and_never_written_out() -> None:
    documents = rendered(VALUES["everything"])
    assert not [document for document in documents if document["kind"] == "Secret"]
    pod = pod_of(VALUES["everything"])
    admin = next(volume for volume in pod["volumes"] if volume["name"] == "admin")
    assert admin["secret"]["secretName"] == "mine"
    (token,) = [each for each in pod["containers"][0]["env"] if each["name"] == "HF_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}


def test_a_secret_is_made_where_none_is_named() -> None:
    made = [of_kind({}, "Secret")["data"]["secret"] for _ in range(2)]
    assert made[0] != made[1]
    assert all(len(each) >= 64 for each in made)


# What stands around them.


def test_services_reach_the_replicas_and_one_names_each_of_them() -> None:
    pod_labels = of_kind({}, "Deployment")["spec"]["template"]["metadata"]["labels"]
    services = [document for document in rendered({}) if document["kind"] == "Service"]
    assert [service["spec"].get("clusterIP") for service in services] == [None, "None"]
    ports = {port["name"]: port["containerPort"] for port in container_of({})["ports"]}
    for service in services:
        assert service["spec"]["selector"].items() <= pod_labels.items()
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


def test_the_autoscaler_goes_by_the_wait_for_a_turn() -> None:
    scaler = of_kind(VALUES["everything"], "HorizontalPodAutoscaler")["spec"]
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] == "flagtriton_queue_seconds_mean"
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "50m"}
    deployment = of_kind(VALUES["everything"], "Deployment")
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # an upgrade must not undo what it did


def test_policies_select_the_replicas_whoever_made_them() -> None:
    labels = of_kind({}, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for kind, path in (("NetworkPolicy", "podSelector"), ("PodDisruptionBudget", "selector")):
        assert of_kind({}, kind)["spec"][path]["matchLabels"].items() <= labels.items()
        of_kserve = of_kind(VALUES["KServe"], kind)["spec"][path]["matchLabels"]
        assert of_kserve == {"serving.kserve.io/inferenceservice": "search-flagtriton"}


def test_only_those_who_may_reach_which_port() -> None:
    policy = of_kind(VALUES["everything"], "NetworkPolicy")["spec"]
    requests, metrics = policy["ingress"]
    assert requests["from"] == [{"podSelector": {"matchLabels": {"app": "search"}}}]
    assert [port["port"] for port in requests["ports"]] == [8000, 8001]
    assert metrics["from"] == [{"podSelector": {}}]
    assert [port["port"] for port in metrics["ports"]] == [8002, 8003]
    assert policy["egress"] == []


def test_kserve_takes_the_place_of_what_it_makes_itself() -> None:
    kinds = {document["kind"] for document in rendered(VALUES["KServe"])}
    assert kinds == {
        *("ServingRuntime", "InferenceService", "ServiceAccount", "Secret"),
        *("NetworkPolicy", "PodDisruptionBudget", "PodMonitor"),
    }
    runtime, service = of_kind(VALUES["KServe"], "ServingRuntime"), of_kind(VALUES["KServe"], "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] == runtime["spec"]["supportedModelFormats"][0]["name"]


# Files that are copies, as a chart can hold no link.


@pytest.mark.parametrize(
    ("copy", "original"),
    [("rules.yml", "prometheus/rules.yml"), ("flagtriton.json", "grafana/dashboards/flagtriton.json")],
)
def test_copies_are_up_to_date(copy: str, original: str) -> None:
    folder = CHART.parents[1]
    assert (CHART / "files" / copy).read_bytes() == (folder / original).read_bytes(), (
        f"cp docker/{original} {CHART}/files"
    )


def test_rules_and_dashboard_come_through_as_they_are() -> None:
    rules = of_kind(VALUES["everything"], "PrometheusRule")["spec"]
    assert rules == yaml.safe_load((CHART / "files" / "rules.yml").read_text())
    dashboard = of_kind(VALUES["everything"], "ConfigMap")["data"]["flagtriton.json"]
    assert json.loads(dashboard) == json.loads((CHART / "files" / "flagtriton.json").read_text())


def test_the_chart_is_complete_in_a_copy_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(CHART, tmp_path / "flagtriton")
    assert helm.Chart.load(str(tmp_path / "flagtriton")).render({}, name="x", namespace="y")
