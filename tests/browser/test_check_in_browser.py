"""The page of a check opened from its file in Chromium: in light, in dark and narrow, complete and without a script."""

import pytest

import pyro_vae as pv
from pyro_vae.report.check_page import check_page

pytestmark = pytest.mark.browser
SIZE = pv.diagnostics.CheckSize(num_replicates=300, num_simulations=50, num_draws=19, num_scored=20, num_samples=10)


@pytest.fixture(scope="module")
def page(fitted, tmp_path_factory):
    vae, _, _ = fitted("digits", 2)
    found = pv.diagnostics.check(vae, pv.load_data("digits", check_rows=90), size=SIZE)
    path = tmp_path_factory.mktemp("check") / "check.html"
    path.write_text(check_page(found, "digits <b>&"), "utf-8")
    return path, found


def luminance(colour):
    red, green, blue = (int(part) for part in colour.strip("rgba()").split(",")[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_every_verdict_can_be_read(chromium, page, scheme, width):
    path, found = page
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    chromium.get_log("browser")
    chromium.get(path.as_uri())
    run = chromium.execute_script
    assert run("return document.querySelector('h1').textContent") == "digits <b>&"
    assert len(chromium.find_elements("css selector", "section.verdict")) == len(found.verdicts)
    assert run("return document.documentElement.scrollWidth") <= width
    assert run("return [...document.images].every(image => image.complete && image.naturalWidth > 300)")
    back, text = (run(f"return getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert abs(luminance(back) - luminance(text)) > 0.7
    assert (luminance(back) > 0.5) == (scheme == "light")
    places = [
        link.get_attribute("href").partition("#")[2] for link in chromium.find_elements("css selector", "table a")
    ]
    assert all(run("return document.getElementById(arguments[0]) !== null", place) for place in places)
    assert not [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
