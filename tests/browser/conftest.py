"""A real headless Chromium, the pages it opens, and axe-core, the checker of accessibility."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from bench.report import CHROMIUM, FLAGS
from eval.report import build, comparison_page
from orchestrator.run_directory import RunDirectory
from tests.eval import fake_run

AXE = "axe-core@4.10.3"
LAPTOP, PHONE = (1280, 900), (390, 844)
OPEN_S = 20.0
Opens = Callable[..., Page]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of 30 steps with problems whose answer is a number, and others whose answer is a box."""
    return fake_run.make(tmp_path_factory.mktemp("runs") / "geo3k-tiny", steps=30, problems=60, boxes=True)


@pytest.fixture(scope="module")
def report(run: RunDirectory) -> Path:
    """The run's report."""
    run.report.write_text(build(run), encoding="utf-8")
    return run.report


@pytest.fixture(scope="module")
def comparison(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of that run and another one."""
    other = fake_run.make(tmp_path_factory.mktemp("runs") / "other", steps=20, problems=60)
    path = other.path / "both.html"
    path.write_text(comparison_page.build([run, other]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.fail(f"{CHROMIUM} is not there. Run tests/browser/install.")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opens]:
    """Open a page; whatever goes wrong in it fails the test at its end."""
    wrong: list[str] = []
    contexts = []

    def open_page(path: Path, size: tuple[int, int] = LAPTOP, scheme: str = "light", **more: Any) -> Page:
        viewport = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True, **more)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * OPEN_S)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        if more.get("java_script_enabled", True) and page.locator("#index").count():
            page.wait_for_selector("#shown[data-row]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's source, from the cache or through npm."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "orchestrator" / AXE
    source = folder / "package" / "axe.min.js"
    if not source.exists():
        if shutil.which("npm") is None:
            pytest.skip(f"{AXE} comes from npm, which is not here. The checks without it run all the same.")
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--json", AXE]
        told = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True).stdout
        with tarfile.open(folder / json.loads(told)[0]["filename"]) as archive:
            archive.extract("package/axe.min.js", folder, filter="data")
    return source.read_text(encoding="utf-8")
