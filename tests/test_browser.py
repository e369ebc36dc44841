"""The site as a reader sees it, in headless Chromium; skipped where there is none."""

import functools
import http.server
import io
import shutil
import threading

import pytest
from PIL import Image

webdriver = pytest.importorskip("selenium.webdriver", reason="for developers")

from tools import chapters, figures  # noqa: E402

CHROMIUM = next((name for name in figures.BROWSERS if shutil.which(name)), None)
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and shutil.which("chromedriver")),
    reason="needs Chromium and its driver (Debian: apt install chromium-driver)",
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def built(whole_site):
    return whole_site


@pytest.fixture(scope="module")
def address(whole_site):
    """The site served from the loopback interface."""
    handler = functools.partial(Quiet, directory=whole_site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    """Chromium that can reach nothing but this machine."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which(CHROMIUM)
    for flag in (*figures.FLAGS, "--disable-sync", "--disable-quic"):
        options.add_argument(flag)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def names(built):
    found = [path.relative_to(built).as_posix() for path in built.rglob("*.html")]
    return sorted(name for name in found if not name.startswith("_"))


def wait_for(browser, script, seconds=15):
    from selenium.webdriver.support.ui import WebDriverWait

    def asked(driver):
        return driver.execute_script(f"return {script}")

    return WebDriverWait(browser, seconds).until(asked)


def resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_every_page_loads_without_an_error_and_fits(browser, address, built):
    widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
    for name in names(built):
        resize(browser, 1200)
        browser.get(f"{address}/{name}")
        wait_for(browser, "document.readyState === 'complete'")
        broken = browser.execute_script(
            "return [...document.images].filter(i => i.complete && !i.naturalWidth)"
            ".map(i => i.src)"
        )
        assert not broken, f"{name}: {broken}"
        for width in (1200, 375):
            resize(browser, width)
            wide, inner = browser.execute_script(widths)
            assert inner == width and wide <= inner, f"{name}: {wide} pixels at {width}"
        errors = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
        assert not errors, f"{name}: {errors}"


@pytest.mark.parametrize(
    ("words", "page"),
    {
        "coupling": "04_realnvp",
        "KerasTensor cannot be used": "A1_breaks",
        "received an invalid value for units": "A1_breaks",
        "non-serializable argument": "A1_breaks",
        "num_maksed": "A1_breaks",
    }.items(),
)
def test_the_search_finds_words_and_error_messages(browser, address, words, page):
    browser.get(f"{address}/search.html?q={words.replace(' ', '+')}")
    found = "[...document.querySelectorAll('ul.search a')].map(a => a.href).join(' ')"
    assert page in wait_for(browser, found)


def test_a_folded_cell_unfolds(browser, address):
    browser.get(f"{address}/notebooks/04_realnvp.html")
    details = "document.querySelector('.cell details, details.hide')"
    assert wait_for(browser, f"{details} !== null")
    assert browser.execute_script(f"return {details}.open") is False
    browser.execute_script(f"{details}.querySelector('summary').click()")
    assert browser.execute_script(f"return {details}.open") is True


def test_the_leaderboard_sorts_by_numbers(browser, address):
    browser.get(f"{address}/docs/leaderboard.html")
    head = "document.querySelectorAll('table.sortable thead button')"
    wait_for(browser, f"{head}.length > 2")
    column = (
        "[...document.querySelectorAll('table.sortable tbody tr')]"
        ".map(r => parseFloat(r.cells[3].textContent.replace(/,/g, '')))"
        ".filter(n => !isNaN(n))"
    )
    browser.execute_script(f"{head}[3].click()")
    up = browser.execute_script(f"return {column}")
    assert up == sorted(up) and len(up) > 5
    browser.execute_script(f"{head}[3].click()")
    assert browser.execute_script(f"return {column}") == sorted(up, reverse=True)


def test_dark_mode_keeps_pictures_readable(browser, address):
    """Pictures have dark letters: in dark mode they keep a light ground."""
    browser.get(f"{address}/notebooks/04_realnvp.html")
    wait_for(browser, "document.readyState === 'complete'")
    browser.execute_script("document.documentElement.dataset.theme = 'dark'")
    ground = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g)"
    wait_for(browser, f"{ground}.map(Number).reduce((a, b) => a + b) < 200")
    picture = browser.find_element("css selector", ".cell_output img")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
    shot = Image.open(io.BytesIO(picture.screenshot_as_png)).convert("L")
    values = sorted(shot.tobytes())
    assert values[len(values) // 2] > 180 and values[len(values) // 200] < 120


def test_opened_from_disk_pages_and_formulas_work(browser, built):
    browser.get((built / "notebooks" / "04_realnvp.html").as_uri())
    wait_for(browser, "document.readyState === 'complete'")
    wide = "m => m.getBoundingClientRect().width > 5"
    math = f"[...document.querySelectorAll('math')].filter({wide})"
    assert browser.execute_script(f"return {math}.length") > 20
    first = chapters.find(["04"])[0].stem
    assert first in browser.current_url
