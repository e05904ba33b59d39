"""The documentation and the HTML report in a real browser: whole at a desk and on a phone, and without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from i2moe.interpretation import InteractionReport
from tests.docs.conftest import ROOT

pytestmark = pytest.mark.slow

DESK, PHONE = 1280, 390
PAGES = sorted(
    path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
    for pattern in ("*.md", "*/*.md", "*/*.ipynb")
    for path in (ROOT / "docs").glob(pattern)
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served; the report lies beside it."""
    InteractionReport.example().to_html(site / "report.html")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, the system's or the one that `playwright install chromium` brings."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        found = shutil.which("chromium") or playwright.chromium.executable_path
        if not Path(found).exists():
            pytest.skip("no browser is installed: playwright install chromium")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Any]:
    """Open a page at a width; what it logs as an error, asks of a network or cannot load fails the test at its end."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    wrong: list[str] = []

    def open_page(path: str, width: int = DESK) -> Any:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("response", lambda response: wrong.append(response.url) if response.status >= 400 else None)
        page.on("request", lambda request: wrong.append(request.url) if not is_local(request.url) else None)
        page.goto(address + path)
        return page

    def is_local(url: str) -> bool:
        return url.startswith((address, "data:", "blob:"))

    yield open_page
    context.close()
    assert not wrong


def test_pages_are_whole(open_page: Any, address: str) -> None:
    """Nothing is wider than the window, nothing is missing, nothing comes from elsewhere."""
    page, too_wide = open_page("index.html"), {}
    for path in (*PAGES, "report.html"):
        page.goto(address + path)
        for width in (DESK, PHONE):
            page.set_viewport_size({"width": width, "height": 900})
            found = page.evaluate("document.scrollingElement.scrollWidth")
            if found > width:
                too_wide[path, width] = found
    assert too_wide == {}


def test_formulas_are_drawn(open_page: Any) -> None:
    box = open_page("reference/backbones.html").locator("math").first.bounding_box()
    assert min(box["width"], box["height"]) > 10


def test_copied_code_has_no_prompts(open_page: Any) -> None:
    page = open_page("tutorial.html")
    block = page.locator(".highlight", has=page.locator(".gp")).first
    shown = block.locator("pre").inner_text().splitlines()
    block.hover()
    block.locator("button.copybtn").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    code = [line[4:] for line in shown if line.startswith((">>>", "..."))]
    assert 0 < len(code) < len(shown)
    assert copied.strip() == "\n".join(code).strip()


@pytest.mark.parametrize(
    ("word", "page"),
    [("missing", "missing-modalities.html"), ("Lightning", "every-loop.html"), ("mask", "missing-modalities.html")],
)
def test_search_finds(open_page: Any, word: str, page: str) -> None:
    results = open_page(f"search.html?q={word}").locator(f"ul.search a[href^='{page}']")
    results.first.wait_for()  # they come one by one; none within the time limit is an error


def test_the_menu_opens_on_a_phone(open_page: Any) -> None:
    page = open_page("index.html", PHONE)
    page.locator("label.nav-overlay-icon[for='__navigation']").first.click()
    menu = page.locator(".sidebar-tree")
    menu.wait_for(state="visible")
    captions = menu.locator(".caption-text").all_inner_texts()
    assert [text.title() for text in captions] == SECTIONS


SECTIONS = ["Start", "Guides", "Concepts", "Gallery", "Reference", "Evidence", "Project"]
