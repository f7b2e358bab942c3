"""The console in a browser, before a real primary and a real standby."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.client import Client, MusterError
from muster.v1 import admin_pb2
from tests.examples.service import running_pair
from tests.fixtures.tiny_bundle import build

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make build-all")
pytest.importorskip("nicegui", reason="the extra `console` is not installed: make build-all")

ROOT = Path(__file__).parents[3]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_MS = 60_000
# The slowest test machine answers in this; what a deadline buys is not what is tested here.
DEADLINE_MS = "10000"

if CHROMIUM is None:
    pytest.skip("no browser is installed: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], Path]]:
    folder = tmp_path_factory.mktemp("console")
    with running_pair(folder, {"drills.allowed": "transfer"}) as endpoints:
        build(folder / "other", name="other")
        yield endpoints, folder


@pytest.fixture(scope="module")
def address(service: tuple[list[str], Path]) -> Iterator[str]:
    endpoints, folder = service
    command = [sys.executable, "-m", "muster.cli", "console", "--listen", "127.0.0.1:0"]
    command += ["--target", ",".join(endpoints), "--bundles", str(folder)]
    environment = {
        **os.environ,
        "MUSTER_DRILL_RECORDS": str(folder / "records.sqlite"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
    }
    # Not in the project's folder: what a drill writes is of this test.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        found = re.search(r"http://\S+", told)
        assert found, told + process.stderr.read()
        yield found[0]
        process.send_signal(signal.SIGINT)
        process.stderr.close()
        assert process.wait(timeout=60) in (0, 130, -signal.SIGINT)


@pytest.fixture(scope="module")
def context(address: str) -> Iterator[sync_api.BrowserContext]:
    """One for all tests, so that the assets are fetched once."""
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
        )
        made = started.new_context(base_url=address)
        made.set_default_timeout(WAIT_MS)
        yield made
        started.close()


@pytest.fixture
def page(context: sync_api.BrowserContext, address: str) -> Iterator[sync_api.Page]:
    """A page that fails the test where it asks anything of another host, or a script of it fails."""
    opened = context.new_page()
    strangers: list[str] = []
    errors: list[str] = []
    opened.on("request", lambda request: strangers.append(request.url) if foreign(request.url) else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))

    def foreign(url: str) -> bool:
        return not url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))

    yield opened
    opened.close()
    assert not strangers and not errors


def search(page: sync_api.Page, query: str) -> None:
    page.goto("/")
    # Fields that are filled before the page is connected are emptied again by it.
    page.wait_for_function("window.socket?.connected || window.didHandshake")
    page.get_by_label("Deadline, ms").fill(DEADLINE_MS)
    page.get_by_label("What the shopper types").fill(query)
    page.get_by_label("What the shopper types").press("Enter")


def test_a_search_by_keyboard_shows_products_their_reasons_and_what_more_time_changes(
    page: sync_api.Page,
) -> None:
    search(page, "coffee mug")
    results = page.get_by_test_id("results").locator("li")
    results.first.wait_for()
    assert results.count() == 10
    assert "worth 100% of the best plan" in page.get_by_test_id("receipt").inner_text()
    assert "nothing on this page" in page.get_by_test_id("longer").inner_text()
    first = results.first
    assert re.search(r"Shown (because|as)", first.inner_text())
    first.get_by_text("Why, in numbers").click()
    sum_ = first.get_by_text("for any product")
    sum_.wait_for()
    told = sum_.inner_text()
    assert "not accounted for" not in told
    score, terms = told.partition(";")[0].split(" = ")
    parts = [float(part) for part in re.findall(r"(?:^|\s)([+-]?\d+\.\d{4})\b", terms)]
    assert abs(sum(parts) - float(score)) < 1e-3


def test_a_brand_that_is_chosen_is_the_only_one_left(page: sync_api.Page) -> None:
    search(page, "coffee mug")
    page.get_by_test_id("results").locator("li").first.wait_for()
    brand = (
        page.locator("section", has=page.get_by_role("heading", name="Brand")).get_by_role("checkbox").first
    )
    name = (brand.get_attribute("aria-label") or brand.inner_text()).rpartition(" (")[0]
    brand.click()
    page.wait_for_function(
        "name => [...document.querySelectorAll('[data-testid=results] li')]"
        ".every(line => line.innerText.includes(name))",
        arg=name,
    )


def test_an_error_of_the_service_is_a_sentence_that_says_what_to_do(page: sync_api.Page) -> None:
    search(page, " ")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "The request is refused: query" in alert.inner_text() and "ask again" in alert.inner_text()


def test_replicas_show_both_and_who_is_primary(page: sync_api.Page) -> None:
    page.goto("/replicas")
    page.get_by_text("2 of 2 replicas answer").wait_for()
    page.get_by_role("cell", name="primary").wait_for()
    assert page.locator(".chart svg").count() >= 1


def test_drills_are_listed_and_none_was_run(page: sync_api.Page) -> None:
    page.goto("/drills")
    page.get_by_role("button", name="Run failover").wait_for()
    page.get_by_text("No drill has been run here.").wait_for()


def test_a_deploy_asks_first_and_can_be_left(page: sync_api.Page) -> None:
    page.goto("/bundles")
    page.get_by_role("button", name="Deploy tiny").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("It goes back by itself").wait_for()
    dialog.get_by_role("button", name="Leave it").click()
    dialog.wait_for(state="hidden")
    assert not page.get_by_test_id("job").is_visible()


def output_of(page: sync_api.Page) -> str:
    return page.get_by_role("log").inner_text()


def finished(page: sync_api.Page, title: str) -> str:
    """What the page says of a job once it has ended."""
    try:
        page.wait_for_function(
            "title => { const told = document.querySelector('[data-testid=job]').innerText;"
            " return told.startsWith(title) && !told.includes('under way'); }",
            arg=title,
            timeout=4 * WAIT_MS,
        )
    except sync_api.TimeoutError:
        pytest.fail(f"{title} does not end: {output_of(page)}")
    return page.get_by_test_id("job").inner_text()


def test_a_drill_of_the_running_service_is_run_from_the_page_and_its_report_is_read(
    page: sync_api.Page,
) -> None:
    page.goto("/drills")
    entry = page.get_by_role("listitem").filter(has=page.get_by_role("button", name="Run rolling_restart"))
    assert "Sets off no alert: planned" in entry.inner_text()
    entry.get_by_role("checkbox", name="on the running service").click()
    entry.get_by_role("button", name="Run rolling_restart").click()
    page.get_by_role("dialog").get_by_role("button", name="Run it").click()
    told = finished(page, "drill rolling_restart")
    output = page.get_by_role("log").inner_text()
    # How a busy machine keeps its calls is the drill's own question.
    found = re.search(r"held|deviated|inconclusive", told)
    assert found, told + output
    assert f"rolling_restart: {found[0]}" in output
    page.reload()
    row = page.get_by_role("row").filter(has_text="rolling_restart")
    row.wait_for()
    assert found[0] in row.inner_text()
    page.get_by_text("The report of all drills").click()
    report = page.frame_locator("iframe.report")
    report.get_by_role("link", name="rolling_restart").wait_for()
    overview = report.get_by_role("row").filter(has_text="rolling_restart").first
    assert found[0] in overview.inner_text()


@contextlib.contextmanager
def shoppers(endpoint: str) -> Iterator[None]:
    """Searches at one replica as long as it lasts, each another one, since the canary takes its share of them
    by what is asked; with pauses in which it can compare."""
    enough, numbers = threading.Event(), itertools.count()

    def ask() -> None:
        with Client([endpoint]) as client:
            while not enough.is_set():
                with contextlib.suppress(MusterError):
                    client.search(f"coffee mug {next(numbers)}", deadline_ms=float(DEADLINE_MS))
                enough.wait(0.005)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for one in asking:
        one.start()
    try:
        yield
    finally:
        enough.set()
        for one in asking:
            one.join()


def test_a_bundle_is_deployed_and_rolled_back_from_the_page(
    page: sync_api.Page, service: tuple[list[str], Path]
) -> None:
    endpoints, _ = service
    with Client(endpoints) as client:

        def serving() -> set[str]:
            return {one.status.bundle_id for one in client.status() if one.status is not None}

        def standby() -> str:
            roles = {one.endpoint: one.status.role for one in client.status() if one.status is not None}
            return next(endpoint for endpoint, role in roles.items() if role == admin_pb2.ROLE_STANDBY)

        [before] = serving()
        page.goto("/bundles")
        page.get_by_label("Requests to compare").fill("30")
        page.get_by_label("Requests to compare").press("Tab")
        with shoppers(standby()):
            page.get_by_role("button", name="Deploy other").click()
            page.get_by_role("dialog").get_by_role("button", name="Deploy it").click()
            assert finished(page, "deploy of other") == "deploy of other: done.", output_of(page)
        [after] = serving()
        assert after != before and after.startswith("other")
        page.get_by_role("cell", name=after, exact=True).first.wait_for()
        page.get_by_role("button", name="Roll back").click()
        page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
        assert finished(page, "roll-back") == "roll-back: done.", output_of(page)
        assert serving() == {before}


def test_pages_fit_a_phone_and_the_theme_is_remembered(page: sync_api.Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto("/alerts")
    page.get_by_role("combobox", name="Theme").click()
    page.get_by_role("option", name="Dark").click()
    page.wait_for_function("document.body.classList.contains('body--dark')")
    for path in ("/", "/replicas", "/bundles"):
        page.goto(path)
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_function("document.body.classList.contains('body--dark')")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
