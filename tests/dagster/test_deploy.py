"""The files in deploy/, as far as they can be tried without Docker and a cluster.

dagster.yaml is the instance of tests/e2e/test_postgres_and_s3.py. The keys of Helm values are those of Dagster's chart
1.13, as far as they are used.
"""

import contextlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
import yaml

from dselect_core.errors import DselectError
from dselect_core.settings.settings import load_settings
from tests.e2e.killed_refresh import environment
from tests.postgresql import free_ports

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


COMPOSE, VALUES, INSTANCE = read("compose.yaml"), read("values.yaml"), read("dagster.yaml")
DEPLOYMENT = VALUES["dagster-user-deployments"]["deployments"][0]
IMAGE = (DEPLOY / "Dockerfile").read_text("utf-8")


def test_services_know_each_other() -> None:
    services, volumes = COMPOSE["services"], COMPOSE["volumes"]
    assert set(services) == {"postgresql", "s3", "code", "webserver", "daemon"}
    for service in services.values():
        assert set(service) <= {
            "image", "build", "restart", "command", "environment", "volumes", "ports", "depends_on", "healthcheck",
        }  # fmt: skip
        assert set(service.get("depends_on", {})) <= set(services)
        named = {volume.partition(":")[0] for volume in service["volumes"]}
        assert all(name in volumes or (DEPLOY / name).is_file() for name in named)
    of_dagster = services["code"]["environment"]
    asked_for = re.findall(r"env: (\w+)", (DEPLOY / "dagster.yaml").read_text())
    assert set(asked_for) <= set(of_dagster) and of_dagster["DAGSTER_POSTGRES_HOST"] in services
    assert of_dagster["AWS_ENDPOINT_URL"].removeprefix("http://").partition(":")[0] in services
    # No password stands in a file; each is asked for by name.
    for service in services.values():
        for name, value in service["environment"].items():
            if name.endswith(("PASSWORD", "KEY", "KEY_ID")):
                assert value.startswith("${")
    assert load_settings(DEPLOY / "dselect.yaml").storage.startswith("s3://")


def test_the_code_location_of_the_workspace_loads(tmp_path: Path) -> None:
    """The command of the service `code`, and what webserver and daemon load."""
    server = read("workspace.yaml")["load_from"][0]["grpc_server"]
    command = COMPOSE["services"]["code"]["command"]
    assert server["host"] == "code" and str(server["port"]) == command[command.index("-p") + 1]
    assert all(
        "/opt/dagster/workspace.yaml" in COMPOSE["services"][name]["command"] for name in ("webserver", "daemon")
    )
    assert "deploy/workspace.yaml /opt/dagster/" in IMAGE and "DAGSTER_HOME=/opt/dagster" in IMAGE
    port = str(free_ports(1)[0])
    here = {"0.0.0.0": "127.0.0.1", str(server["port"]): port}
    homes = [tmp_path / "code", tmp_path / "client"]  # two at once in a new one would both make its tables
    of_code, of_client = (
        environment(PYTHONPATH=str(ROOT), DSELECT_CONFIG=str(DEPLOY / "dselect.yaml"), DAGSTER_HOME=str(home))
        for home in homes
    )
    for home in homes:
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text(
        yaml.safe_dump({"load_from": [{"grpc_server": {**server, "host": "127.0.0.1", "port": int(port)}}]})
    )
    program = [sys.executable, "-m", command[0]]
    process = subprocess.Popen([*program, *(here.get(word, word) for word in command[1:])], env=of_code)
    try:
        wait_for(int(port))
        done = subprocess.run(
            [*program, "schedule", "list", "-w", str(workspace)],
            env=of_client,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert "refresh_sources" in done.stdout, done.stdout + done.stderr
    finally:
        process.terminate()
        process.wait(60)


def wait_for(port: int) -> None:
    stop = time.monotonic() + 100
    while True:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        assert time.monotonic() < stop
        time.sleep(0.1)


def test_values_have_the_keys_of_the_chart() -> None:
    known = {
        "global": {"postgresqlSecretName"},
        "postgresql": {
            "enabled", "postgresqlHost", "postgresqlUsername", "postgresqlDatabase", "postgresqlScheme", "service",
        },
        "dagster-user-deployments": {"enabled", "deployments"},
        "runLauncher": {"type", "config"},
        "dagsterDaemon": {"runCoordinator", "runMonitoring", "runRetries"},
        "retention": {"enabled", "sensor"},
        "additionalInstanceConfig": {"concurrency", "run_retries"},
    }  # fmt: skip
    assert {key: set(value) for key, value in VALUES.items() if isinstance(value, dict)} == known
    assert set(DEPLOYMENT) == {
        "name", "image", "dagsterApiGrpcArgs", "port", "includeConfigInLaunchedRuns", "envSecrets", "env", "volumes",
        "volumeMounts", "resources",
    }  # fmt: skip
    assert f"COPY {Path(DEPLOYMENT['dagsterApiGrpcArgs'][1]).relative_to('/app')} deploy/" in IMAGE
    assert set(VALUES["runLauncher"]["config"]["k8sRunLauncher"]) == {"imagePullPolicy", "resources"}
    daemon = VALUES["dagsterDaemon"]
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert set(queue) == {"maxConcurrentRuns", "dequeueIntervalSeconds", "dequeueUseThreads", "dequeueNumWorkers"}
    snake = {re.sub("[A-Z]", lambda m: "_" + m[0].lower(), name): value for name, value in queue.items() if value}
    monitoring = {re.sub("[A-Z]", lambda m: "_" + m[0].lower(), k): v for k, v in daemon["runMonitoring"].items()}
    # What the chart makes of them is an instance that Dagster takes, and that deploy/dagster.yaml agrees with.
    made_of = VALUES["additionalInstanceConfig"] | {
        "run_coordinator": INSTANCE["run_coordinator"] | {"config": snake}, "run_monitoring": monitoring,
    }  # fmt: skip
    for name in ("run_coordinator", "run_retries"):
        assert made_of[name] == INSTANCE[name]
    assert made_of["concurrency"]["pools"] == INSTANCE["concurrency"]["pools"]
    with dg.instance_for_test(overrides=made_of) as instance:
        assert instance.get_concurrency_config().pool_config.pool_granularity is not None
        assert instance.run_monitoring_enabled


def kubernetes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("DSELECT_CONFIG", str(DEPLOY / "dselect.yaml"))
    monkeypatch.setenv("DSELECT_STEP_PODS", DEPLOYMENT["env"]["DSELECT_STEP_PODS"])
    spec = importlib.util.spec_from_file_location("deploy_kubernetes", DEPLOY / "kubernetes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_asset_gets_the_pod_that_the_values_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = kubernetes(monkeypatch)
    pods = module.per_step_pods(os.environ["DSELECT_STEP_PODS"])
    assert set(pods) == {"score_source", "warmup_model", "miwv_values", "trial", "neighbors"}
    assert pods["score_source"]["container_config"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    job = module.defs.resolve_implicit_global_asset_job_def()
    assert job.executor_def.name == "k8s"
    with pytest.raises(DselectError, match="no asset nosuch; there are: activations"):
        module.per_step_pods("nosuch: {}")
    with pytest.raises(Exception, match="nosuch"):
        module.per_step_pods("trial: {container_config: {nosuch: 1}}")
