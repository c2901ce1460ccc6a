"""The files of configs/deploy: each is valid for the program that reads it, and says what a node understands."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import compose_spec
import kubernetes_validate
import pytest
import yaml
from keys_made import make_keys
from test_deployment import Supervisor, started
from test_node_http import ask
from test_server import free_port

from meshcache.cli.parser import make_parser
from meshcache.config import Config
from meshcache.contradictions import HTTP_PORT_OFFSET, PUBLISH_PORT_OFFSET

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "configs/deploy"
UNIT: Final = DEPLOY / "systemd/meshcache@.service"
COMPOSE: Final = DEPLOY / "docker/compose.yaml"
MANIFEST: Final = DEPLOY / "kubernetes/meshcache.yaml"
PROGRAM: Final = Path(sys.executable).parent / "meshcache"
EXPOSURE_MAX: Final = 2.0
"""Of 10, as systemd-analyze counts; it calls up to 4 "OK"."""
LEAVE_S: Final = Config().membership.leave_timeout_s
PORT: Final = 7101

analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def parsed(command: list[str]) -> Any:
    return make_parser().parse_args(command)


def config_of(command: list[str], path: Path | None = None, environ: dict[str, str] | None = None) -> Config:
    """Return the configuration with which a node's command runs."""
    options = parsed(command)
    overrides = [*options.set, f"node.id={options.id}"]
    return Config.load(path, overrides=overrides, environ=environ or {})


# -- systemd -----------------------------------------------------------------------------------------------


def installed_unit(folder: Path) -> Path:
    """Return the unit as it would be installed here."""
    unit = folder / UNIT.name.replace("@", "@cache1")
    unit.write_text(UNIT.read_text().replace("/opt/meshcache/bin/meshcache", str(PROGRAM)))
    return unit


@analyze
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    command = ["systemd-analyze", "verify", "--recursive-errors=no", str(installed_unit(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@analyze
def test_the_unit_gives_away_little(tmp_path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(installed_unit(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE_MAX


def settings_of_unit() -> configparser.SectionProxy:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    return unit["Service"]


def test_the_unit_waits_until_a_node_has_left() -> None:
    service = settings_of_unit()
    assert float(service["TimeoutStopSec"]) > LEAVE_S
    assert float(service["TimeoutStartSec"]) > Config.load(ROOT / "configs/production.toml").membership.join_wait_s
    assert service["RestartPreventExitStatus"] == "2"


@pytest.mark.process
def test_the_command_of_the_unit_runs(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "n1.toml").write_text(f'[node]\nlisten = "127.0.0.1:{port}"\n[snapshot]\nenabled = true\n')
    credentials = make_keys(tmp_path, "n1")
    (credentials / "n1.secret").rename(credentials / "node.secret")
    (credentials / "http.token").write_text("0123456789abcdef\n")
    (credentials / "http.token").chmod(0o600)
    (credentials / "allowed").rename(tmp_path / "allowed")
    text = settings_of_unit()["ExecStart"].replace("%i", "n1").replace("/etc/meshcache", str(tmp_path))
    text = text.replace("%d", str(credentials)).replace("\\\n", " ")
    command = shlex.split(text.replace("/var/lib/meshcache", str(tmp_path / "state")))
    assert command[0] == "/opt/meshcache/bin/meshcache"
    (tmp_path / "state" / "n1").mkdir(parents=True)
    supervisor = Supervisor(tmp_path / "notify")
    with started([str(PROGRAM), *command[1:]], supervisor.environment) as process:
        supervisor.wait("READY=1")
        process.send_signal(signal.SIGTERM)
        supervisor.wait("STOPPING=1")
        assert process.wait(20) == 0
        assert any((tmp_path / "state" / "n1").iterdir()), "a snapshot"
    supervisor.socket.close()


# -- docker ------------------------------------------------------------------------------------------------


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_compose_understands_its_file() -> None:
    plain = yaml.safe_dump(yaml.safe_load(COMPOSE.read_text()))  # the package knows no merge keys (<<), compose does
    compose_spec.PyCompose.from_yaml(plain)
    with pytest.raises(ValueError, match="healthchek"):
        compose_spec.PyCompose.from_yaml(plain.replace("healthcheck:", "healthchek:"))


def test_the_nodes_of_compose_are_one_mesh_and_have_time_to_leave() -> None:
    nodes = {name: service for name, service in services().items() if service.get("command", ())[:1] == ["node"]}
    assert len(nodes) == 3
    for name, service in nodes.items():
        config = config_of(service["command"], environ=service["environment"])
        assert (config.node.id, config.node.address) == (name, f"{name}:{PORT}")
        assert config.node.seeds == tuple(f"{other}:{PORT}" for other in nodes)
        assert config.cluster.replicas == len(nodes)
        assert float(service["stop_grace_period"].removesuffix("s")) > LEAVE_S
        assert config.store.max_bytes * 1.5 < 512e6, "mem_limit"


def test_the_gateway_of_compose_is_understood_and_seen_on_this_machine_only() -> None:
    gateway = services()["gateway"]
    options = parsed(gateway["command"])
    assert options.at == ",".join(f"node{number}:{PORT}" for number in (1, 2, 3))
    assert {"localhost", "127.0.0.1", "gateway"} <= set(options.host)
    for service in services().values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_prometheus_of_compose_asks_every_service(tmp_path: Path) -> None:
    asked = yaml.safe_load((DEPLOY / "docker/prometheus.yml").read_text())["scrape_configs"]
    own = yaml.safe_load((ROOT / "configs/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert [job["job_name"] for job in asked] == [job["job_name"] for job in own], "the alerts look for these names"
    targets = {target for job in asked for one in job["static_configs"] for target in one["targets"]}
    nodes = {f"node{number}:{PORT + HTTP_PORT_OFFSET}" for number in (1, 2, 3)}
    assert targets == nodes | {"gateway:7180"}
    for volume in services()["prometheus"]["volumes"]:
        assert (COMPOSE.parent / volume.partition(":")[0]).resolve().is_file(), volume


def test_what_the_image_is_made_of_is_there() -> None:
    text = (DEPLOY / "docker/Dockerfile").read_text()
    for copied in re.findall(r"^COPY (.+) \S+$", text, flags=re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists(), name
            assert f"!{name}" in (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
    assert re.search(r"^USER \d+$", text, flags=re.MULTILINE)
    assert f"127.0.0.1:{PORT + HTTP_PORT_OFFSET}/health" in text


@pytest.mark.process
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_a_node_ends_in_good_order_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    """The kernel delivers no signal to such a process unless it has a handler."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to make a namespace")
    port = free_port()
    supervisor = Supervisor(tmp_path / "notify")
    command = [*unshare, str(PROGRAM), "node", "--id", "n1", "--listen", f"127.0.0.1:{port}"]
    with started(command, supervisor.environment) as process:
        supervisor.wait("READY=1")
        pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        assert re.search(rf"^NSpid:\t{pid}\t1$", Path(f"/proc/{pid}/status").read_text(), flags=re.MULTILINE)
        assert ask(port + HTTP_PORT_OFFSET, "/health")[0] == 200
        subprocess.run(["kill", "-TERM", str(pid)], check=True)
        supervisor.wait("STOPPING=1")
        assert process.wait(20) == 0
    supervisor.socket.close()


# -- Kubernetes --------------------------------------------------------------------------------------------


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(MANIFEST.read_text()))[:-1]  # the last is a comment


def manifest(kind: str, name: str = "meshcache") -> Any:
    (found,) = [each for each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod() -> Any:
    return manifest("StatefulSet")["spec"]["template"]["spec"]


@pytest.mark.parametrize("each", manifests(), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_kubernetes_understands_each_manifest(each: dict[str, Any]) -> None:
    kubernetes_validate.validate(each, "1.31", strict=True)


def test_a_pod_runs_with_its_arguments(tmp_path: Path) -> None:
    (container,) = pod()["containers"]
    file = tmp_path / "meshcache.toml"
    file.write_text(manifest("ConfigMap")["data"]["meshcache.toml"])
    values = {"POD_NAME": "meshcache-0", "POD_NAMESPACE": "shop", "HOST_NAME": "machine7"}
    assert {variable["name"] for variable in container["env"]} == values.keys()
    command = [re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], word) for word in container["args"]]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "config"]
    assert parsed(command).config == mount["mountPath"]
    config = config_of(command, file)
    headless = manifest("StatefulSet")["spec"]["serviceName"]
    assert config.node.address == f"meshcache-0.{headless}.shop.svc:{PORT}"
    assert config.node.seeds == (f"{headless}:{PORT}",)
    assert config.node.host == "machine7"
    assert config.cluster.replicas <= manifest("StatefulSet")["spec"]["replicas"]
    limit_gib = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
    assert config.store.max_bytes * 1.5 < limit_gib * 2**30
    tomllib.loads(file.read_text())


def test_a_pod_has_time_to_leave_and_is_asked_at_the_right_port() -> None:
    (container,) = pod()["containers"]
    (_, sleep_s) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod()["terminationGracePeriodSeconds"] > int(sleep_s) + LEAVE_S
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"mesh": PORT, "publish": PORT + PUBLISH_PORT_OFFSET, "http": PORT + HTTP_PORT_OFFSET}
    for probe, path in (("readinessProbe", "/ready"), ("livenessProbe", "/health"), ("startupProbe", "/health")):
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}


def test_all_select_the_same_pods() -> None:
    labels = manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    headless = manifest("Service", manifest("StatefulSet")["spec"]["serviceName"])["spec"]
    assert (headless["clusterIP"], headless["publishNotReadyAddresses"]) == ("None", True)
    selected = [headless["selector"], manifest("Service")["spec"]["selector"]]
    selected += [manifest(kind)["spec"]["selector"]["matchLabels"] for kind in ("StatefulSet", "PodDisruptionBudget")]
    selected.append(manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
    assert selected == [labels] * 5
    assert manifest("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
