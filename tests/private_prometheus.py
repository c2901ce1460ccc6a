"""A Prometheus of one's own, on loopback and with a directory of its own, that asks the nodes of a mesh once a second.

It runs on the files of configs/prometheus as they are, but for whom it asks and how often.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import watching
import yaml
from timing import eventually

from meshcache.local.processes import find_base_port

INTERVAL_S = 1
START_S_MAX = 60.0
STOP_S_MAX = 30.0


class Prometheus:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self._port = port

    def is_ready(self) -> bool:
        try:
            return self._get("/-/ready")[0] == 200
        except OSError:
            return False

    def told(self, path: str, **parameters: str) -> Any:
        """Return the data that its API answers with."""
        status, body = self._get(f"/api/v1/{path}?{urlencode(parameters)}")
        answer = json.loads(body)
        assert (status, answer["status"]) == (200, "success"), answer
        return answer["data"]

    def find(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Return what a query finds now: labels and value of each."""
        return [(one["metric"], float(one["value"][1])) for one in self.told("query", query=query)["result"]]

    def firing(self) -> set[tuple[str, str]]:
        """Return the alerts that fire: name, and instance if it is about one."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("instance", ""))
            for alert in self.told("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def _get(self, path: str) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()


def scraping(targets: Sequence[str]) -> dict[str, Any]:
    """Return the scrape file of a mesh with these nodes, and no gateway."""
    settings: dict[str, Any] = watching.read(watching.SCRAPING)
    settings["global"] = dict.fromkeys(settings["global"], f"{INTERVAL_S}s")
    settings["rule_files"] = [str(watching.SCRAPING.parent / name) for name in settings["rule_files"]]
    jobs = {job["job_name"]: job for job in settings["scrape_configs"]}
    jobs["meshcache"]["static_configs"][0]["targets"] = list(targets)
    jobs["meshcache-gateway"]["static_configs"] = []
    return settings


@contextmanager
def private_prometheus(home: Path, targets: Sequence[str]) -> Iterator[Prometheus]:
    """Run one; ``targets``: host:port of the nodes' HTTP."""
    program = shutil.which("prometheus")
    assert program is not None
    settings, port = home / "prometheus.yml", find_base_port(1)
    settings.write_text(yaml.safe_dump(scraping(targets)))
    command = [program, f"--config.file={settings}", f"--storage.tsdb.path={home / 'data'}"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        server = Prometheus(port)
        eventually(lambda: server.is_ready() or process.poll() is not None, START_S_MAX)
        assert process.poll() is None, (home / "log").read_text()[-2000:]
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
