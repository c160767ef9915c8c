"""The console in a real browser, on the real server."""

from __future__ import annotations

import io
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from foveate.images import cluttered_digits as images
from foveate.inference.engine import Engine

BROWSERS = ("chromium", "google-chrome", "chrome", "chromium-browser")
PIXELS, LABELS = images.test_set(4)
DIGIT = {"name": "digit.png", "mimeType": "image/png"}
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
PATIENCE_MS = 60_000
FAILED = "Failed to load resource: "  # how Chromium itself reports an answer of 400 or more

expect.set_options(timeout=PATIENCE_MS)


class Console:
    """The page, and whatever its browser had to complain about."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self._hear("error", str(error)))
        page.goto(f"http://{address}/")
        expect(page.locator("#connection")).to_have_text("live")

    def expect_refusal(self, status: int, locator: Locator, text: str) -> None:
        """``locator`` tells ``text``, which the API answered with ``status``."""
        expect(locator).to_contain_text(text)
        refused = [text for text in self.complaints if text.startswith(f"{FAILED}the server")]
        assert refused
        assert all(f"status of {status}" in text for text in refused), self.complaints
        self.complaints = [text for text in self.complaints if text not in refused]

    def figure(self, name: str) -> Locator:
        return self.page.locator("#figures div", has=self.page.get_by_text(name, exact=True))

    def fill(self, **fields: object) -> None:
        for key, value in fields.items():
            self.page.locator(f"#{key}").fill(str(value))

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def await_levels(self, allowed: Callable[[int], bool]) -> None:
        """Wait until the latest batch ran at such a level."""
        names = [f"#levels tbody tr:nth-child({k + 1}).current" for k in range(5) if allowed(k)]
        expect(self.page.locator(", ".join(names))).to_be_visible()

    def show_image(self, pixels: Any) -> None:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        self.page.set_input_files("#file", {**DIGIT, "buffer": buffer.getvalue()})

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def open_console(browser: Browser) -> Iterator[Callable[..., Console]]:
    """``open_console(address, **options)``: at the end nobody must have complained."""
    opened: list[Console] = []

    def open_one(address: str, **options: Any) -> Console:
        context = browser.new_context(**{"viewport": WIDE, **options})
        opened.append(Console(context.new_page(), address))
        return opened[-1]

    yield open_one
    for console in opened:
        console.page.context.close()
    assert [console.complaints for console in opened] == [[] for _ in opened]


@pytest.fixture
def console(open_console: Callable[..., Console], guarded: Any) -> Console:
    """The page of the guarded server, with the token."""
    console = open_console(guarded.adapter)
    console.page.locator("#access summary").click()
    console.fill(token="sesame")
    console.press("Save")
    return console


@pytest.fixture
def linger(request: pytest.FixtureRequest, console: Console) -> Callable[[float], None]:
    """``linger(seconds)``: wait, if pictures are wanted, for there to be something to see."""
    wanted = request.config.getoption("--pictures") is not None
    return lambda seconds: console.page.wait_for_timeout(1000 * seconds if wanted else 0)


@pytest.fixture
def picture(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Locator, str], None]:
    """``picture(locator, name)``: a screenshot."""
    folder = request.config.getoption("--pictures") or tmp_path

    def take(locator: Locator, name: str) -> None:
        path = folder / f"{name}.png"
        locator.screenshot(path=path)
        assert path.stat().st_size > 10_000

    return take


def test_a_new_slo_moves_the_level(
    console: Console,
    guarded: Any,
    load: Callable[..., Any],
    linger: Callable[[float], None],
    picture: Callable[..., None],
) -> None:
    page = console.page
    expect(console.figure("Rate").locator(".value")).to_contain_text("/s")
    # At level 0 they take as long as the SLO, or longer.
    with load(guarded, in_flight=max(8, round(0.06 * guarded.capacity))) as running:
        linger(20)
        console.fill(latency_ms=60)
        console.press("Set SLO")
        expect(page.locator("#message")).to_have_text("SLO set")
        expect(console.figure("Latency p99").locator(".note")).to_contain_text("SLO 60 ms")
        console.await_levels(lambda level: level >= 2)
        linger(20)
        picture(page.locator("body"), "console")
        console.fill(latency_ms=200, min_quality=0.9735)
        console.press("Set SLO")
        expect(page.locator("#levels tbody tr", has_text="yes")).to_have_count(2)
        console.await_levels(lambda level: level <= 1)
        assert max(running.more(8)[-8:]) <= 1
        expect(console.figure("Tokens per image").locator(".value")).not_to_have_text("–")
    expect(page.locator("#decisions tbody tr")).not_to_have_count(0)
    console.fill(min_quality=0)
    console.press("Set SLO")
    expect(page.locator("#levels tbody tr", has_text="no")).to_have_count(0)


def test_a_change_without_the_token_asks_for_it(
    open_console: Callable[..., Console], guarded: Any
) -> None:
    console = open_console(guarded.adapter)
    console.press("Pin")
    console.expect_refusal(401, console.page.locator("#pin [data-rest]"), "a bearer token")
    expect(console.page.locator("#token")).to_be_focused()
    console.page.keyboard.type("sesame")
    console.page.keyboard.press("Enter")
    console.press("Pin")
    expect(console.page.locator("#pinned")).to_contain_text("pinned to dense")
    console.page.reload()
    console.press("Unpin")
    expect(console.page.locator("#pinned")).to_have_text("not pinned")


@pytest.mark.parametrize(
    ("field", "value", "status", "reason"),
    [
        ("objective", 2, 422, "less than 1"),
        ("latency_ms", "soon", 422, "valid number"),
        ("min_quality", 0.99, 409, "level 0 of 'digits' has 0.9735"),
    ],
)
def test_a_refusal_is_told_beside_its_field(
    console: Console, field: str, value: object, status: int, reason: str
) -> None:
    console.fill(**{field: value})
    console.press("Set SLO")
    console.expect_refusal(status, console.page.locator(f"#{field}-error"), reason)
    expect(console.page.locator(f"#{field}")).to_be_focused()
    expect(console.page.locator(f"#{field}")).to_have_accessible_description(
        console.page.locator(f"#{field}-error").inner_text()
    )
    console.press("Undo edits")
    expect(console.page.locator(f"#{field}-error")).to_be_hidden()
    expect(console.page.locator("#slo [aria-invalid]")).to_have_count(0)


def test_a_pin_holds_until_it_is_taken_away_or_expires(
    console: Console, guarded: Any, load: Callable[..., Any]
) -> None:
    page = console.page
    page.locator("#level").select_option(index=2)
    console.press("Pin")
    expect(page.locator("#pinned")).to_contain_text("5 min left")
    with load(guarded, in_flight=1):
        console.await_levels(lambda level: level == 2)
    expect(page.locator("#decisions tbody tr").first).to_contain_text("pinned")
    console.press("Unpin")
    expect(page.locator("#pinned")).to_have_text("not pinned")
    console.fill(expires_s=1)
    console.press("Pin")
    expect(page.locator("#message")).to_contain_text("pinned to")
    expect(page.locator("#pinned")).to_have_text("not pinned")
    console.fill(expires_s=-1)
    console.press("Pin")
    console.expect_refusal(422, page.locator("#expires_s-error"), "greater than 0")


def test_an_image_is_classified_and_its_patches_shown(
    open_console: Callable[..., Console],
    server: Any,
    picture: Callable[..., None],
    as_served: Callable[[Path], Engine],
) -> None:
    engine = as_served(Path(server.repository) / "digits" / "1")
    console = open_console(server.adapter)
    page = console.page
    console.show_image(PIXELS[1])
    expect(page.locator("#verdict")).to_have_text(f"both levels say {LABELS[1]}")
    for level, kinds in ((0, ("kept",)), (4, ("kept", "packaged"))):
        card = page.locator(f"article[data-level='{level}']")
        answers = engine.infer(torch.from_numpy(PIXELS[1:2]), [level], token_map=True)
        assert answers.token_map is not None
        packaged = int((answers.token_map < 0).sum())
        counts = {"kept": 144 - packaged, "packaged": packaged}
        told = ", ".join(f"{counts[kind]} {kind}" for kind in kinds)
        expect(card.get_by_role("img")).to_have_accessible_name(f"144 patches: {told}")
        best = card.locator("tbody tr").first
        expect(best).to_contain_text(f"{100 * float(answers.scores[0].max()):.2f} %")
    picture(page.locator("#explain"), "image")
    page.locator("#compare").select_option("1")
    expect(page.locator("article[data-level='1'] .fates")).to_contain_text("108 dropped")
    page.set_input_files("#file", {**DIGIT, "buffer": b"no image"})
    console.expect_refusal(400, page.locator("#image [data-rest]"), "neither JPEG nor PNG")
    expect(page.locator("article")).to_have_count(0)


def test_an_image_can_be_dropped(open_console: Callable[..., Console], server: Any) -> None:
    console = open_console(server.adapter)
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[2]).save(buffer, "JPEG", quality=95)
    console.page.evaluate(
        """(bytes) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "d.jpg", { type: "image/jpeg" }));
          const options = { dataTransfer: data, bubbles: true, cancelable: true };
          document.querySelector(".drop").dispatchEvent(new DragEvent("drop", options));
        }""",
        [*buffer.getvalue()],
    )
    expect(console.page.locator("#verdict")).to_contain_text(str(LABELS[2]))


@pytest.mark.parametrize(("scheme", "viewport"), [("light", WIDE), ("dark", PHONE)])
def test_it_is_for_everybody(
    open_console: Callable[..., Console], server: Any, scheme: str, viewport: dict[str, int]
) -> None:
    """No rule of axe-core is broken (WCAG 2 A and AA among them), nothing is wider than a phone."""
    console = open_console(server.adapter, color_scheme=scheme, viewport=viewport)
    page = console.page
    console.show_image(PIXELS[0])
    expect(page.locator("article")).to_have_count(2)
    for details in page.locator("details").all():
        details.evaluate("(element) => { element.open = true; }")
    expect(page.locator("figure table").first).to_contain_text(" ms")
    found = Axe().run(page).response["violations"]
    assert [(item["id"], [node["target"] for node in item["nodes"]]) for item in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


def test_the_keyboard_reaches_everything(open_console: Callable[..., Console], server: Any) -> None:
    page = open_console(server.adapter).page
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to metrics")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#now")).to_be_focused()
    wanted = ["latency_ms", "objective", "min_quality", "goal", "level", "expires_s", "file"]
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        if reached[-1] == wanted[-1]:
            break
    assert [id for id in reached if id in wanted] == wanted
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) != "none"


def test_it_holds_five_minutes_and_no_more(
    open_console: Callable[..., Console], server: Any
) -> None:
    page = open_console(server.adapter).page
    view = page.evaluate("fetch('v1/models/digits').then((reply) => reply.json())")
    kept = page.evaluate(
        """async (view) => {
          const { History } = await import("/console/history.js");
          const history = new History();
          for (let now = 0; now < 2000; now += 1) history.add(view, now);
          const lengths = Object.values(history).map((series) => series.length);
          return [history.time.length, history.time[0], ...lengths];
        }""",
        view,
    )
    assert kept[:2] == [1500, 500]
    assert {*kept[2:]} == {1500}
    rows = page.evaluate(
        """async (view) => {
          const decisions = await import("/console/decisions.js");
          await decisions.load(view);
          const decision = { ...view.decision, model: view.name };
          for (let n = 0; n < 300; n += 1) {
            const time = new Date(Date.now() + 1000 * n).toISOString();
            decisions.add({ ...decision, time }, view);
          }
          return document.querySelectorAll("#decisions tbody tr").length;
        }""",
        view,
    )
    assert rows == 256


def test_several_models_and_a_word_that_another_adapter_has(
    open_console: Callable[..., Console],
    start_adapter: Callable[..., Any],
    eventually: Callable[..., None],
    server: Any,
    tmp_path: Path,
) -> None:
    for name in ("digits", "faces"):
        folder = tmp_path / name / "1"
        folder.mkdir(parents=True)
        ladder = (server.repository / "digits" / "1" / "ladder.json").read_text()
        (folder / "ladder.json").write_text(ladder.replace('"digits"', f'"{name}"'))
    adapter = start_adapter(server, ready=False, repository=tmp_path)
    eventually(lambda: adapter.api.get("/healthz").is_success, "adapter")
    page = open_console(adapter.api.base_url.netloc.decode()).page
    expect(page.locator("#problem")).to_contain_text("another adapter")
    expect(page.locator("#latency_ms")).to_be_disabled()
    page.get_by_label("Model", exact=True).select_option("faces")
    expect(page).to_have_title("faces – Foveate")
    expect(page.locator("#problem")).to_contain_text("faces: ")
    expect(page.locator("#latency_ms")).to_be_enabled()


def test_it_comes_back_when_the_adapter_does(console: Console, guarded: Any) -> None:
    (adapter,) = guarded.children("foveate_adapter")
    os.kill(adapter, signal.SIGKILL)
    expect(console.page.locator("#connection")).to_contain_text("connection lost")
    expect(console.page.locator("#connection")).to_have_text("live")
    # Chromium reports every failed request of its own accord.
    assert all("ERR_" in text for text in console.complaints), console.complaints
    console.complaints.clear()
