"""The UI of `dselect dev` on a project that `dselect refresh` made, and Debian's Chromium that looks at it.

Chromium lacks its sandbox here, for it refuses to have one as root. Screenshots are left in `.dselect/screenshots`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.killed_refresh import environment
from tests.ui.project import write_project

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds: two cores make runs, serve the UI and draw it
BROWSERS = ("chromium", "google-chrome")
_DSELECT = [sys.executable, "-m", "dselect_dagster.cli"]


@dataclass
class Ui:
    """address: of the Dagster UI; reports: of the pages; asked_for: every URL that the browser asked for so far.

    dialogs: what scripts said to whoever looks, which nothing here may do.
    """

    folder: Path
    address: str
    reports: str
    page: Page
    asked_for: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.address}{path}")
        return self.page

    def screenshot(self, name: str, page: Page | None = None) -> None:
        folder = ROOT / ".dselect" / "screenshots"
        folder.mkdir(parents=True, exist_ok=True)
        (page or self.page).screenshot(path=folder / f"{name}.png")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """The project's folder, and the addresses of the UI and of the reports."""
    folder, port, reports = tmp_path_factory.mktemp("ui"), _free_port(), _free_port()
    config = write_project(folder, reports)
    inherited = environment(PYTHONPATH=str(ROOT), DAGSTER_DISABLE_TELEMETRY="1")
    told = subprocess.run([*_DSELECT, "refresh"], cwd=folder, env=inherited, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    log = folder / "dev.log"
    with log.open("w") as written:
        dev = subprocess.Popen(
            [*_DSELECT, "dev", "--config", str(config), "--port", str(port)],
            cwd=folder, env=inherited, stdout=written, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        for address in (f"http://127.0.0.1:{port}/server_info", f"http://127.0.0.1:{reports}/"):
            _wait_until_served(address, dev, log)
        yield folder, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{reports}"
    finally:
        os.killpg(dev.pid, signal.SIGTERM)
        dev.wait(60)
    # The server of the reports ends with it, in a session of its own.
    _wait(lambda: not _answers(f"http://127.0.0.1:{reports}/"), "the reports are served still")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found is not None, "no Chromium: apt-get install chromium"
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def ui(served: tuple[Path, str, str], browser: Browser) -> Iterator[Ui]:
    """A new browser window; after each test, all that it asked for was on this machine, and no script spoke."""
    folder, address, reports = served
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE * 1000)
    ui = Ui(folder, address, reports, context.new_page())
    context.on("request", lambda request: ui.asked_for.append(request.url))
    context.on("dialog", lambda dialog: (ui.dialogs.append(dialog.message), dialog.dismiss()))
    yield ui
    ours = (f"{address}/", f"{reports}/", f"blob:{address}/", "data:")
    assert [url for url in ui.asked_for if not url.startswith(ours)] == []
    assert any(url.startswith(f"{address}/graphql") for url in ui.asked_for)
    assert ui.dialogs == []
    context.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_until_served(address: str, dev: subprocess.Popen[bytes], log: Path) -> None:
    def is_served() -> bool:
        assert dev.poll() is None, log.read_text()
        return _answers(address)

    _wait(is_served, f"{address} does not answer")


def _wait(until: Callable[[], bool], otherwise: str) -> None:
    deadline = monotonic() + PATIENCE
    while not until():
        assert monotonic() < deadline, otherwise
        sleep(0.2)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False
