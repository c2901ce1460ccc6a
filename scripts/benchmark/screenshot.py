"""A picture of the dashboard for the README: three nodes under load, one of which was killed and came back.

It is taken from a real mesh, gateway and browser, and made small: a palette of few colours is enough for it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import meshcache
from meshcache.local.processes import HOST, find_base_port

ROOT: Final = Path(__file__).parents[2]
PICTURE: Final = ROOT / "meshcache" / "gateway" / "dashboard.png"
WIDTH, HEIGHT, SCALE = 1200, 800, 1
COLOURS: Final = 48
KEYS: Final = 1500
HOT_READS: Final = 12


def main(arguments: Sequence[str]) -> int:
    """Take the picture."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench screenshot",
        description="Take the picture of the dashboard. Needs chromium and chromium-driver, selenium and pillow.",
        epilog="examples:\n  scripts/bench screenshot                  the README's\n"
        "  scripts/bench screenshot --out /tmp/a.png --seconds 60",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=PICTURE, help="the file to write")
    parser.add_argument("--seconds", type=float, default=75.0, help="how long to watch before (75)")
    options = parser.parse_args(arguments)
    with meshcache.LocalMesh(nodes=3, cluster={"replicas": 2}) as mesh, mesh.client() as cache:
        stopping = threading.Event()
        load = threading.Thread(target=_load, args=(cache, stopping), daemon=True)
        load.start()
        gateway = _gateway(mesh.addresses)
        try:
            address = gateway.stdout.readline().split()[1] if gateway.stdout else ""
            picture = _look(address, mesh, options.seconds)
        finally:
            gateway.terminate()
            stopping.set()
            load.join()
    options.out.write_bytes(_small(picture))
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")
    return 0


def _load(cache: meshcache.Client, stopping: threading.Event) -> None:
    """Read and write as an app may: more reads than writes, and one key that everybody reads."""
    cache.set("front page", "<h1>Hello</h1>", ttl=None)
    cache.set_many({f"user:{i}": {"visits": 0} for i in range(KEYS * 19 // 20)}, ttl=None)
    turn = 0
    while not stopping.wait(0.004):
        turn += 1
        cache.set_many({f"user:{(turn * 5 + i) % KEYS}": {"visits": turn} for i in range(2)}, ttl=15)
        cache.get_many([f"user:{(turn * 7 + i * 31) % KEYS}" for i in range(10)])
        for _ in range(HOT_READS):
            cache.get("front page")


def _gateway(seeds: list[str]) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "meshcache",
        "gateway",
        "--listen",
        f"{HOST}:{find_base_port(1)}",
        "--at",
        ",".join(seeds),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _look(address: str, mesh: meshcache.LocalMesh, seconds: float) -> bytes:
    """Watch the dashboard for some time, with a node that dies in the midst of it."""
    from selenium import webdriver  # noqa: PLC0415  (of the tests' packages)

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        metrics = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": SCALE, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get(address)
        time.sleep(seconds / 2)
        mesh.kill("node3")
        time.sleep(seconds / 8)
        mesh.start("node3")
        time.sleep(seconds * 3 / 8)
        picture: Any = driver.get_screenshot_as_png()
        return bytes(picture)


def _small(picture: bytes) -> bytes:
    from PIL import Image  # noqa: PLC0415  (only here)

    with Image.open(BytesIO(picture)) as image:
        out = BytesIO()
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        return out.getvalue()
