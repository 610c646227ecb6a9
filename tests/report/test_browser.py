"""Reports in headless Chromium: no errors, nothing loaded, nothing wider than the screen.

In CI (the variable CI is set, as `.ci/run` does) a missing browser is a failure, elsewhere the test
is skipped. Screenshots stay in pytest's temporary folder.
"""

import json
import os
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest

import bayes_lsm as lsm
from bayes_lsm.errors import BayesLsmWarning
from bayes_lsm.report import analyse, analysis_page, write_page

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
WIDTHS = (375, 1280)


def programs():
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    if os.environ.get("CI"):
        pytest.fail("Chromium and chromedriver must be there in CI; see .ci/run")
    pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    program, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


def simulated(k=1500):
    rng = np.random.default_rng(1)
    x = rng.normal(size=k)
    data = pd.DataFrame({"x": x, "vi": rng.uniform(0.01, 0.1, k)})
    sd = np.sqrt(data["vi"] + np.exp(-3 + 0.5 * x))
    data["yi"] = 0.3 + 0.2 * x + sd * rng.normal(size=k)
    return lsm.LocationScaleModel("yi ~ x", scale="~ x", variance="vi", data=data)


MODELS = {
    "preterm_continent": (lambda: lsm.LocationScaleModel.from_file("preterm_continent"), {}),
    "simulated": (simulated, {"permutations": 0, "with_sensitivity": False}),
}


def write_report(name, folder):
    make, options = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayesLsmWarning)
        page = analysis_page(analyse(make(), seed=1, progress=False, **options))
    path = folder / f"{name}.html"
    write_page(page, path)
    return path


def requests_of(browser):
    """Addresses that the page asked for, other than itself and what it holds."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    addresses = [each["request"]["url"] for each in sent]
    # The page that a new window shows before anything is opened in it.
    own = ("data:", "file:", "about:", "chrome:")
    return addresses, [url for url in addresses if not url.startswith(own)]


def show(browser, path, width, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.get(path.as_uri())


@pytest.mark.parametrize("name", MODELS)
def test_a_report_opens_without_errors_requests_or_overflow(name, browser, tmp_path):
    path = write_report(name, tmp_path)
    assert path.stat().st_size < 6_000_000
    backgrounds = {}
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            show(browser, path, width, scheme)
            inner, wide = browser.execute_script(
                "return [window.innerWidth, Math.max(document.documentElement.scrollWidth,"
                " document.body.scrollWidth)]"
            )
            assert (inner, wide) == (width, width)
            broken = browser.execute_script(
                "return [...document.images].filter(i => !i.naturalWidth || !i.alt).length"
            )
            assert broken == 0
            assert browser.execute_script("return document.images.length") > 5
            backgrounds[scheme] = browser.execute_script(
                "return getComputedStyle(document.body).backgroundColor"
            )
            browser.save_screenshot(str(tmp_path / f"{name}_{width}_{scheme}.png"))
    assert backgrounds["light"] != backgrounds["dark"]
    assert browser.get_log("browser") == []
    addresses, foreign = requests_of(browser)
    assert path.as_uri() in addresses
    assert foreign == []
