"""Screenshots of a report.html as Chromium shows it: on a phone and on a desktop, light and dark, and printed.

    python docs/pictures/screenshots.py examples/digits/out/report.html FOLDER

``1280-light.png`` and its kind are the first screen, ``1280-light-whole.png`` and its kind the whole page,
``report.pdf`` is what printing gives. ``report.png`` of this folder is ``1280-light.png`` of ``make demo``.
"""

import base64
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

SCREENS = {390: 844, 1280: 800}
"""Width -> height in CSS pixels: a phone, a laptop."""
SCHEMES = ("light", "dark")
PHONE = 390
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-background-networking",
)


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A headless Chromium. Both programs are named, so that Selenium looks for none and downloads none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        sys.exit("expected Chromium and its driver, found none: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = program
    for flag in FLAGS:
        options.add_argument(flag)
    with Chrome(options=options, service=Service(driver)) as browser:
        yield browser


def show(browser: Chrome, page: Path, width: int, scheme: str) -> None:
    """Open ``page`` on a screen of this width, with the system's colours as ``scheme``."""
    size = {"width": width, "height": SCREENS[width], "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"media": "", "features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.resolve().as_uri())


def picture(browser: Chrome, path: Path, *, whole: bool) -> Path:
    """Write what the screen shows, or the ``whole`` page."""
    shot = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"captureBeyondViewport": whole, **area(browser, whole)}
    )
    path.write_bytes(base64.b64decode(shot["data"]))
    return path


def area(browser: Chrome, whole: bool) -> dict[str, dict[str, float]]:
    """What to cut out of the page; nothing is what the screen shows."""
    if not whole:
        return {}
    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}


def printed(browser: Chrome, path: Path) -> Path:
    """Write the page as a PDF of A4 sheets."""
    sheet = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": False}
    path.write_bytes(base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", sheet)["data"]))
    return path


def main(page: Path, folder: Path) -> list[Path]:
    """Write all pictures of ``page`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with chromium() as browser:
        for width in SCREENS:
            for scheme in SCHEMES:
                show(browser, page, width, scheme)
                made += [
                    picture(browser, folder / f"{width}-{scheme}.png", whole=False),
                    picture(browser, folder / f"{width}-{scheme}-whole.png", whole=True),
                ]
        made.append(printed(browser, folder / "report.pdf"))
    return made


if __name__ == "__main__":
    print(*main(*map(Path, sys.argv[1:3])), sep="\n")
