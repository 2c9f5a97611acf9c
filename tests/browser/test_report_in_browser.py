"""The report opened from its file in Chromium: what the reader's hands do, and how it looks."""

import json
import re

import numpy as np
import pytest
from report_page import Page

import pyro_vae as pv
from pyro_vae.report.latent_planes import base_points, latent_planes

pytestmark = pytest.mark.browser


def alone(places):
    """The row that lies farthest from all others."""
    away = np.linalg.norm(np.array(places)[:, None] - np.array(places), axis=-1)
    np.fill_diagonal(away, np.inf)
    return int(away.min(1).argmax())


def written(value):
    return f"{value:.2f}".replace("-", "−")


def test_the_picture_under_the_mouse_is_what_the_decoder_says(chromium, fitted):
    vae, split, path = fitted("digits", 2)
    page = Page(chromium, path)
    plane = latent_planes(vae.encode(split.x).double())[0]
    before = page.grey("decoded")
    for share in (0.25, 0.8):
        x, y = (plane.low + share * (plane.high - plane.low)).tolist()
        page.at(x, y)
        at = [float(value.replace("−", "-")) for value in re.findall(r"= ([−.\d]+)", page.text("where"))]
        np.testing.assert_allclose(at, [x, y], atol=0.02)
        after = page.grey("decoded")
        known = 255 * (1 - vae.decode(plane.low.new_tensor(at).float()).numpy())
        assert abs(after - known).mean() < 4  # of 255: blending, 64 shades, and where the pointer's pixel lies
        assert abs(after - before).mean() > 10
        before = after
    assert not page.complaints()


def test_arrow_keys_move_and_enter_takes_the_nearest_row(chromium, fitted):
    from selenium.webdriver.common.keys import Keys

    _, split, path = fitted("digits", 2)
    page = Page(chromium, path)
    start = page.text("where")
    seen = [page.grey("decoded")]
    for keys in ([Keys.ARROW_RIGHT] * 8, [Keys.SHIFT, Keys.ARROW_UP, Keys.ARROW_UP], [Keys.ARROW_LEFT] * 20):
        page.press(*keys)
        assert abs(page.grey("decoded") - seen[-1]).max() > 0
        seen.append(page.grey("decoded"))
    page.wait(lambda: page.js("return document.getElementById('live').textContent").startswith(page.text("where")))
    said = page.js("return document.getElementById('live').textContent")
    nearest = re.search(r"nearest row (\d+), label (\d)", said)
    page.press(Keys.ENTER)
    page.wait(lambda: page.text("row-title") == f"Row {nearest[1]}")
    assert page.text("label") == nearest[2]
    assert int(nearest[2]) == int(split.labels[split.index.tolist().index(int(nearest[1]))])
    page.press(Keys.HOME)
    page.wait(lambda: page.text("where") == start)
    page.js("document.activeElement.blur(); document.querySelector('#colouring').focus()")
    page.browser.switch_to.active_element.send_keys(Keys.TAB, Keys.TAB)
    assert page.js("return document.activeElement.id") == "plane"  # after colour and the pictures behind
    assert page.js("return getComputedStyle(document.activeElement).outlineWidth") == "3px"
    assert not page.complaints()


def test_a_click_shows_the_row_as_python_knows_it(chromium, fitted):
    vae, split, path = fitted("digits", 2)
    found = pv.auto_evidence(vae, split, num_samples=50)
    page = Page(chromium, path)
    places = vae.encode(split.x).numpy()
    row = alone(places)
    page.at(*places[row].tolist()).click().perform()
    page.wait(lambda: page.text("row-title") == f"Row {split.index[row]}")
    assert page.text("label") == str(int(split.labels[row]))
    assert page.text("log-px") == written(found.log_px[row])
    assert not page.js("return document.getElementById('khat')")  # exact, as for all of two latents
    below = round(100 * int((found.log_px < found.log_px[row]).sum()) / 79)
    assert page.text("verdict").startswith(f"More probable than {below} % of these rows.")
    np.testing.assert_allclose(page.grey("stored"), 255 - split.stored[row].double() * 255 / 16, atol=0.5)
    np.testing.assert_array_equal(page.grey("scored"), 255 - 255 * split.x[row])
    np.testing.assert_allclose(page.grey("again"), 255 - 255 * vae.reconstruct(split.x)[row], atol=0.51)
    order = found.log_px.argsort().tolist()
    page.js("document.getElementById('less').click()")
    less = order[order.index(row) - 1]
    page.wait(lambda: page.text("row-title") == f"Row {split.index[less]}")
    assert not page.complaints()


def live(page):
    return page.js("return document.getElementById('live').textContent")


def test_a_row_without_log_px_is_the_least_probable_and_says_so(chromium, fitted, tmp_path):
    vae, split, path = fitted("digits", 2)
    found = pv.auto_evidence(vae, split, num_samples=50)
    order, text = found.log_px.argsort().tolist(), path.read_text()
    best, second, worst = order[-1], order[-2], order[0]
    start = re.search(r'<script type="application/json" id="data">', text).end()
    data, end = json.JSONDecoder().raw_decode(text[start:])
    data["rows"]["log_px"][best] = None
    other = tmp_path / "null.html"
    other.write_text(text[:start] + json.dumps(data).replace("<", "\\u003c") + text[start + end :])
    page = Page(chromium, other)
    for steps, name in ((len(order) // 2 + 1, "less"), (1, "more"), (1, "more")):
        for _ in range(steps):
            page.js("document.getElementById(arguments[0]).click()", name)
        if name == "less":  # from the middle down, past the end and up again from the top
            page.wait(lambda: page.text("row-title") == f"Row {split.index[second]}")
            page.wait(lambda: live(page).startswith(f"chosen: row {split.index[second]}, label"))
            assert "More probable than 100 % of these rows." in page.text("verdict")
        elif page.text("log-px") == "–":
            assert page.text("row-title") == f"Row {split.index[best]}"
            assert page.text("verdict").startswith("This row has no log p(x)")
            page.wait(lambda: "This row has no log p(x)" in live(page))
        else:
            assert page.text("row-title") == f"Row {split.index[worst]}"
            assert page.text("verdict").startswith("More probable than 0 % of these rows.")
            page.wait(lambda: f"log p(x) {page.text('log-px')}. {page.text('verdict')}" in live(page))
    assert not page.complaints()


def test_a_chosen_row_is_told_whichever_way_it_was_chosen(chromium, fitted):
    from selenium.webdriver.common.keys import Keys

    vae, split, path = fitted("digits", 5)
    page = Page(chromium, path)
    starts = base_points(vae.encode(split.x).double(), split.labels)
    page.js("document.querySelectorAll('#starts input')[4].click()")
    page.wait(
        lambda: live(page).startswith(f"chosen: row {split.index[starts[4].row]}, label {starts[4].name[-1]}, log")
    )
    found = pv.auto_evidence(vae, split, num_samples=50)
    assert page.text("log-px") == written(found.log_px[starts[4].row])
    assert page.text("khat") == written(found.khat[starts[4].row])
    page.press(Keys.ARROW_RIGHT)
    page.wait(lambda: live(page).startswith(page.text("where")))
    page.press(Keys.ENTER)
    page.wait(lambda: live(page).startswith(f"chosen: {page.text('row-title').lower()}"))
    assert page.text("log-px") in live(page)
    assert not page.complaints()


def test_another_plane_and_another_start_show_something_else(chromium, fitted):
    vae, split, path = fitted("digits", 5)
    page = Page(chromium, path)
    means = vae.encode(split.x).double()
    planes, starts = latent_planes(means), base_points(means, split.labels)
    assert len(page.browser.find_elements("css selector", "#starts input")) == 11
    seen = []
    for number in (1, 2):
        page.choose("planes", str(number))
        page.js("document.querySelectorAll('#starts input')[arguments[0]].click()", 3 * number)
        start = starts[3 * number]
        page.wait(lambda row=start.row: page.text("row-title") == f"Row {split.index[row]}")
        assert page.text("where").startswith(f"{planes[number].names[0]} = ")
        known = 255 * (1 - vae.decode(start.z.float()).numpy())  # the plane goes through that row's mean
        page.wait(lambda known=known: abs(page.grey("decoded") - known).mean() < 6)
        seen.append(page.grey("decoded"))
        x, y = planes[number].low.tolist()
        page.at(x + 0.1, y + 0.1)
        assert abs(page.grey("decoded") - seen[-1]).max() > 5
    assert abs(seen[0] - seen[1]).max() > 10
    assert not page.complaints()


def test_a_table_shows_values_in_its_own_units(chromium, fitted):
    vae, split, path = fitted("swiss-roll", 2)
    page = Page(chromium, path)
    places = vae.encode(split.x).numpy()
    row = alone(places)
    page.at(*places[row].tolist()).click().perform()
    page.wait(lambda: page.text("row-title") == f"Row {split.index[row]}")
    script = (
        "return [...document.querySelectorAll('#decoded tbody tr')].map((r) => [...r.cells].map((c) => c.innerText))"
    )
    here, stored, again = np.array(
        [[float(value.replace("−", "-")) for value in line[1:]] for line in page.js(script)]
    ).T
    np.testing.assert_allclose(stored, split.stored[row], rtol=1e-3)
    known = split.measure.to_original_units(vae.reconstruct(split.x))[row]
    np.testing.assert_allclose(again, known, rtol=1e-3)
    np.testing.assert_allclose(here, known, atol=0.5)  # the pointer's pixel, and blending
    assert not page.complaints()


def test_one_latent_is_a_line(chromium, fitted):
    vae, _, path = fitted("digits", 1)
    page = Page(chromium, path)
    low, high = page.data["planes"][0]["low"][0], page.data["planes"][0]["high"][0]
    page.at(low + 0.9 * (high - low), 0.5)
    at = float(re.search(r"z₁ = ([−.\d]+)$", page.text("where"))[1].replace("−", "-"))
    known = 255 * (1 - vae.decode(vae.encode(pv.load_data("digits").valid.x[:1]) * 0 + at).numpy()[0])
    assert abs(page.grey("decoded") - known).mean() < 4
    assert not page.complaints()


def test_a_picture_opens_large_and_escape_closes_it(chromium, fitted):
    from selenium.webdriver.common.keys import Keys

    page = Page(chromium, fitted("digits", 2)[2])
    buttons = page.browser.find_elements("css selector", "#figures button")
    assert len(buttons) >= 5
    assert all(page.js("return [...document.images].map((i) => i.id === 'large-image' || i.alt.length > 10)"))
    buttons[1].send_keys(Keys.ENTER)
    assert (
        page.js("return document.getElementById('large').open && document.getElementById('large-image').naturalWidth")
        > 300
    )
    page.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.wait(lambda: not page.js("return document.getElementById('large').open"))
    assert page.js("return document.activeElement === arguments[0]", buttons[1])
    assert not page.complaints()


LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(("name", "num_latents"), [("digits", 2), ("digits", 5), ("swiss-roll", 2)])
def test_the_page_in_light_in_dark_and_narrow(chromium, fitted, tmp_path, name, num_latents):
    _, _, path = fitted(name, num_latents)
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360)):
        page = Page(chromium, path, width=width, height=740, scheme=scheme)
        assert page.js("return document.documentElement.scrollWidth <= innerWidth"), f"wider than {width} px"
        light = page.screenshot(tmp_path / f"{scheme}-{width}.png") @ LUMINANCE
        back = np.median(light[:, 2])  # the margin
        ink = np.sort(light[:400].flatten())
        assert back > 0.95 if scheme == "light" else back < 0.12
        assert (ink[50] < 0.3) if scheme == "light" else (ink[-50] > 0.85)  # text that can be read on it
        box = page.js("const b = document.getElementById('plane').getBoundingClientRect(); return [b.x, b.y, b.width]")
        left, top, side = (int(value) for value in box)
        paper = light[top + 4 : top + side - 4, left + 4 : left + side - 4]
        assert np.median(paper) > 0.7, "the plane's dots stand on light paper"
        assert paper.min() < 0.3
        beside = page.js("return document.querySelector('.beside').getBoundingClientRect().x") > left + side
        assert beside == (width > 1000)
        assert not page.complaints()
