"""The page of a dashboard in a real browser: it shows what runs, moves, and tells when the executor has ended."""

import os
import shutil
import time
from urllib.parse import urlsplit

import pytest

from pympipool import Executor
from support.waiting import LIMIT_S, wait_until

sync_api = pytest.importorskip("playwright.sync_api", reason="no browser can be driven: pip install playwright")

LIMIT_MS = 1000 * LIMIT_S


@pytest.fixture(scope="module")
def browser():
    """A browser: that of the system, else the one that playwright has installed."""
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        program = shutil.which("chromium") or shutil.which("google-chrome") or (own if os.path.exists(own) else None)
        if program is None:
            pytest.skip("no browser here: apt-get install chromium, or playwright install chromium")
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """An empty page. The test fails if a script of the page fails, or the browser refuses something."""
    page = browser.new_page()
    page.set_default_timeout(LIMIT_MS)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    yield page
    page.unroute_all(behavior="ignoreErrors")
    page.close()
    assert problems == []


@pytest.fixture
def exe():
    with Executor(max_workers=2, block_allocation=True, backend="mpi") as made:
        yield made
        made.kill_workers()  # a call may wait for a test that has failed


def simulate(path):
    while not path.exists():
        time.sleep(0.01)


def number(page, name):
    """Return a number of the page, such as that of running calls."""
    return page.locator("#numbers div", has=page.locator("dt", has_text=name)).locator("dd").inner_text()


def test_running_and_failed_calls_are_shown(exe, page, tmp_path):
    page.goto(exe.dashboard().url)
    page.locator("#state.idle").wait_for()
    exe.submit(divmod, 1, 0).exception()
    held = [exe.submit(simulate, tmp_path / "end") for _ in range(3)]
    page.locator("#state.running").wait_for()
    wait_until(lambda: sum(one.running() for one in held) == 2, LIMIT_S)
    wait_until(lambda: "2 running, 1 waiting" in page.title(), LIMIT_S)
    assert [number(page, name) for name in ("running", "waiting", "failed")] == ["2", "1", "1"]
    assert page.locator("#workers td", has_text="simulate").count() == 2
    assert "simulate" in page.locator("#legend").inner_text()
    (tmp_path / "end").touch()
    page.locator("#state.idle").wait_for()


def test_timeline_moves_while_a_call_runs(exe, page, tmp_path):
    exe.submit(simulate, tmp_path / "end")
    page.goto(exe.dashboard().url)
    page.locator("#legend", has_text="simulate").wait_for()
    picture = "document.getElementById('timeline').toDataURL()"
    drawn = page.evaluate(picture)
    wait_until(lambda: page.evaluate(picture) != drawn, LIMIT_S)
    (tmp_path / "end").touch()


def test_graph_is_drawn_when_it_is_opened(exe, page, tmp_path):
    first = exe.submit(simulate, tmp_path / "end")
    last = exe.submit(str, first)
    page.goto(exe.dashboard().url)
    page.locator("#graph summary").click()
    page.locator("#picture g[data-name=str]").wait_for()
    assert page.locator("#picture g[data-name=simulate]").count() == 1
    (tmp_path / "end").touch()
    last.result(LIMIT_S)
    page.locator("#graph").wait_for(state="hidden")


def test_page_goes_on_without_the_graph(exe, page, tmp_path):
    first = exe.submit(simulate, tmp_path / "end")
    exe.submit(str, first)
    asked = []
    page.route("**/graph", lambda route: (asked.append(route), route.abort()))
    page.goto(exe.dashboard().url)
    page.locator("#graph summary").click()
    wait_until(lambda: page.wait_for_timeout(50) or len(asked) > 1)
    assert page.locator("#notice").is_hidden()
    assert page.locator("#state").inner_text() == "running"
    (tmp_path / "end").touch()


def test_page_tells_that_the_executor_has_ended(page):
    with Executor(max_workers=1, block_allocation=True, backend="mpi") as exe:
        page.goto(exe.dashboard().url)
        page.locator("#state.idle").wait_for()
    page.locator("#notice", has_text="has ended").wait_for()
    assert page.locator("#state").inner_text() == "not connected"


def test_names_of_functions_are_text(exe, page, tmp_path):
    simulate.__qualname__, before = "<img src=x onerror=alert(1)>", simulate.__qualname__
    try:
        first = exe.submit(simulate, tmp_path / "end")
        exe.submit(str, first)
        page.goto(exe.dashboard().url)
        page.locator("#graph summary").click()
        page.locator("#picture g").first.wait_for()
        page.locator("#workers td", has_text="<img src=x").first.wait_for()
        assert page.locator("img").count() == 0
    finally:
        simulate.__qualname__ = before
        (tmp_path / "end").touch()


def test_page_works_behind_a_proxy(exe, page):
    """A proxy such as Jupyter's serves it under a path of its own, and passes its own name on."""
    dashboard = exe.dashboard(allowed_hosts=["hub.example.org"])
    parts = urlsplit(dashboard.url)
    prefix = f"http://hub.example.org/user/me/proxy/{parts.port}"

    def forward(route):
        url = route.request.url.replace(prefix, f"http://{parts.netloc}")
        route.fulfill(response=route.fetch(url=url, headers={**route.request.headers, "host": "hub.example.org"}))

    page.route("http://hub.example.org/**", forward)
    page.goto(prefix + parts.path)
    page.locator("#state.idle").wait_for()
    assert page.locator("#workers tr").count() > 1


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_screen(exe, browser, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
    page.goto(exe.dashboard().url)
    page.locator("#state.idle").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()
    assert light is (theme == "light")
