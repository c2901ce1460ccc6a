"""The dashboard in a real browser: Chromium without a window, a real gateway, a mesh of three nodes.

What it looks like is for people to judge; here is what can be wrong: a node that died and is shown as if it lived, old
figures that look new, a key that runs as a script, a page that loads from elsewhere or does not fit a phone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from timing import eventually
from web_files import OLD, WRONG, token_file

from meshcache import Client, LocalMesh
from meshcache.local.processes import HOST, find_base_port

webdriver = pytest.importorskip("selenium.webdriver")

CHROMIUM: Final = shutil.which("chromium")
DRIVER: Final = shutil.which("chromedriver")
HOSTILE_KEY: Final = "<script>document.title='taken'</script>"
HOSTILE_VALUE: Final = "<img src=x onerror=\"document.title='taken'\">"
SEEN_S: Final = 3.0
"""How soon what happens to a node is to be seen."""

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="needs chromium and chromium-driver: apt install them"),
]


class Gateway:
    """A gateway process that can be stopped and started again at its port."""

    def __init__(self, mesh: LocalMesh, *arguments: str) -> None:
        self.url = f"http://{HOST}:{find_base_port(1)}"
        self._command = [sys.executable, "-m", "meshcache", "gateway", "--listen", self.url.removeprefix("http://")]
        self._command += ["--at", ",".join(mesh.addresses), *arguments]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("ready ")

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(timeout=10) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()


class Page:
    """What a visitor sees and does."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def ask(self, expression: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {expression}", *arguments)

    def text(self, selector: str) -> str:
        return str(self.ask("(document.querySelector(arguments[0]) || {textContent: ''}).textContent", selector))

    def states(self) -> dict[str, str]:
        rows = self.ask(
            "[...document.querySelectorAll('#nodes tbody tr')].map(row => [row.dataset.node, row.dataset.state])"
        )
        return dict(rows)

    def see(self, what: str, timeout_s: float = 10.0) -> None:
        eventually(lambda: self.ask(what), timeout_s)

    def look_up(self, key: str) -> None:
        box = self.driver.find_element("id", "key")
        box.clear()
        box.send_keys(key, "\n")
        self.see("document.querySelector('#found table') !== null")

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    with LocalMesh(nodes=3, cluster={"replicas": 2}) as mesh:
        yield mesh


@pytest.fixture
def cache(mesh: LocalMesh) -> Iterator[Client]:
    with mesh.client() as cache:
        yield cache


@pytest.fixture(scope="module")
def gateway(mesh: LocalMesh) -> Iterator[Gateway]:
    gateway = Gateway(mesh, "--allow-writes")
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: Any, gateway: Gateway) -> Page:
    page = Page(driver)
    page.size(1440, 900)
    page.scheme("light")
    driver.get(gateway.url)
    page.see("document.querySelectorAll('#nodes tbody tr').length === 3")
    return page


def test_three_nodes_are_shown_with_their_shares_and_figures(page: Page, cache: Client) -> None:
    cache.set_many({f"key{number}": number for number in range(50)})
    page.see("[...document.querySelectorAll('#nodes tbody tr')].every(row => row.dataset.state === 'alive')")
    assert list(page.states()) == ["node1", "node2", "node3"]
    assert page.ask("document.querySelectorAll('#ring path').length") == 3
    shares = page.ask("[...document.querySelectorAll('#legend li')].map(item => parseFloat(item.textContent.slice(6)))")
    assert sum(shares) == pytest.approx(100, abs=0.2)
    page.see("[...document.querySelectorAll('#tiles dt')].some(name => name.textContent === 'Entries')")
    page.see("document.querySelector('#tiles').textContent.match(/Entries\\s*(\\d+)/)[1] >= 100")  # two copies of each


def test_a_node_that_is_killed_is_grey_within_seconds_and_comes_back(page: Page, mesh: LocalMesh) -> None:
    page.see("document.querySelector('tr[data-node=node2]').dataset.state === 'alive'")
    mesh.kill("node2")
    killed_at = time.monotonic()
    page.see("document.querySelector('tr[data-node=node2]').dataset.state === 'dead'")
    assert time.monotonic() - killed_at < SEEN_S
    assert page.ask("document.querySelector('tr[data-node=node2]').classList.contains('gone')")
    figures = page.ask("[...document.querySelectorAll('tr[data-node=node2] td')].map(cell => cell.textContent)")
    assert not any(character.isdigit() for text in figures for character in text)  # none that it had when it lived
    assert "node2 dead" in page.ask("document.querySelector('#ring').getAttribute('aria-label')")
    mesh.start("node2")
    page.see("document.querySelector('tr[data-node=node2]').dataset.state === 'alive'", 20)


def test_a_key_is_explained_and_its_value_shown_only_when_asked_for(page: Page, cache: Client) -> None:
    cache.set("user:1", {"name": "Ada"}, ttl=600, tags=["team:7"])
    page.look_up("user:1")
    found = page.text("#found")
    assert "team:7" in found
    assert "for 10 min" in found
    assert "Ada" not in found
    page.driver.find_element("css selector", "#found button").click()
    page.see("document.querySelector('#found pre') !== null")
    assert '"name": "Ada"' in page.text("#found pre")


def test_a_key_and_a_value_that_look_like_scripts_stay_text(page: Page, cache: Client) -> None:
    cache.set(HOSTILE_KEY, HOSTILE_VALUE, tags=[HOSTILE_KEY])
    page.look_up(HOSTILE_KEY)
    page.driver.find_element("css selector", "#found button").click()
    page.see("document.querySelector('#found pre') !== null")
    assert page.text("#found pre") == HOSTILE_VALUE
    assert page.text("#found code") == HOSTILE_KEY
    assert page.ask("document.querySelectorAll('#found script, #found img').length") == 0
    page.driver.find_element("id", "events-toggle").click()
    page.see("document.querySelector('#events-said').textContent !== ''")

    def passes_by() -> bool:
        cache.set(HOSTILE_KEY, HOSTILE_VALUE)
        return HOSTILE_KEY in page.text("#events")

    eventually(passes_by, 10)
    assert page.ask("document.querySelectorAll('#events script').length") == 0
    assert page.ask("document.title") == "meshcache"


def test_a_key_is_deleted_only_where_the_gateway_allows_it(page: Page, mesh: LocalMesh, cache: Client) -> None:
    cache.set("doomed", 1)
    page.look_up("doomed")
    page.driver.find_element("css selector", "#found button.danger").click()
    page.driver.switch_to.alert.accept()
    page.see("document.querySelector('#found').textContent.includes('Deleted.')")
    assert cache.get("doomed", default=None) is None
    reader = Gateway(mesh)
    page.driver.get(reader.url)
    page.see("document.querySelectorAll('#nodes tbody tr').length === 3")
    page.look_up("doomed")
    assert page.ask("document.querySelectorAll('#found button.danger').length") == 0
    page.driver.get("about:blank")
    reader.stop()


def test_where_a_token_is_needed_the_page_asks_for_it_and_works_with_it(
    page: Page, mesh: LocalMesh, cache: Client, tmp_path: Path
) -> None:
    cache.set("user:2", {"name": "Grace"})
    closed = Gateway(mesh, "--token-file", str(token_file(tmp_path, OLD)))
    try:
        page.driver.get(closed.url)
        page.see("!document.querySelector('#login').hidden")
        assert page.text("#connection") == "Not live: a token is needed"
        box = page.driver.find_element("id", "token")
        box.send_keys(WRONG, "\n")
        page.see("document.querySelector('#login-said').textContent === 'The gateway does not take this token.'")
        assert page.ask("document.querySelectorAll('#nodes tbody tr').length") == 0
        box.send_keys(OLD, "\n")
        page.see("document.querySelectorAll('#nodes tbody tr').length === 3")
        page.see("document.querySelector('#login').hidden && document.querySelector('#lost').hidden")
        page.look_up("user:2")
        page.driver.find_element("css selector", "#found button").click()
        page.see("document.querySelector('#found pre') !== null")
        assert "Grace" in page.text("#found pre")
        page.driver.find_element("id", "events-toggle").click()

        def passes_by() -> bool:
            cache.set("user:2", {"name": "Grace"})
            return "user:2" in page.text("#events")

        eventually(passes_by, 10)
        page.driver.refresh()  # the token stays in this tab
        page.see("document.querySelectorAll('#nodes tbody tr').length === 3")
        assert page.driver.get_cookies() == []
        assert OLD not in page.driver.current_url
    finally:
        page.driver.get("about:blank")
        page.driver.get_log("browser")
        closed.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1440])
def test_it_fits_the_screen_and_keeps_to_the_colours_of_the_system(page: Page, width: int, scheme: str) -> None:
    page.size(width, 900)
    page.scheme(scheme)
    page.see(f"window.innerWidth === {width}")
    assert page.ask("document.documentElement.scrollWidth") <= width
    paper, ink = (
        sum(map(int, page.ask(f"getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3)"))) / 3
        for name in ("backgroundColor", "color")
    )
    assert (paper > 200 and ink < 60) if scheme == "light" else (paper < 60 and ink > 200)


def test_the_keyboard_is_enough(page: Page) -> None:
    keys = webdriver.Keys
    seen: list[str] = []
    for _ in range(8):
        page.driver.switch_to.active_element.send_keys(keys.TAB)
        seen.append(page.ask("document.activeElement.id || document.activeElement.className"))
    assert seen[0] == "skip"
    assert "key" in seen
    assert "events-toggle" in seen
    assert page.ask("document.querySelectorAll('th:not([scope])').length") == 0


def test_lost_news_are_said_and_old_figures_are_not_shown_as_new(page: Page, gateway: Gateway) -> None:
    page.see("!document.body.classList.contains('old')")
    gateway.stop()
    page.see("document.body.classList.contains('old')", 8)
    assert page.text("#lost").startswith("No news since ")
    assert page.ask("document.querySelector('#lost').hidden") is False
    assert page.text("#connection") == "Not live"
    gateway.start()
    page.see("!document.body.classList.contains('old') && document.querySelector('#lost').hidden", 10)


def test_nothing_comes_from_elsewhere_and_nothing_is_refused(page: Page, gateway: Gateway) -> None:
    page.driver.get_log("browser")
    page.driver.refresh()
    page.see("document.querySelectorAll('#nodes tbody tr').length === 3")
    sources = page.ask("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert sources
    assert all(source.startswith(gateway.url) for source in sources)
    assert [entry["message"] for entry in page.driver.get_log("browser")] == []
