"""A report that is opened in a browser: its canvases, its pointer, its pictures."""

import base64
import json
import time

import numpy as np
from PIL import Image


class Page:
    """A report, opened in a browser."""

    def __init__(self, browser, path, width=1280, height=1000, scheme="light"):
        self.browser = browser
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get_log("browser")
        browser.get(path.as_uri())
        self.data = json.loads(self.js("return document.getElementById('data').textContent"))
        self.wait(lambda: self.js("return !document.getElementById('chosen').hidden"))

    def js(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, condition, seconds=10):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the page did not get there"
            time.sleep(0.02)

    def element(self, name):
        return self.browser.find_element("id", name)

    def text(self, name):
        return self.element(name).text

    def grey(self, name):
        """The pixels of a canvas, one number each."""
        script = """const c = document.getElementById(arguments[0]);
            return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0)"""
        return np.array(self.js(script, name), dtype=float)

    def at(self, x, y):
        """The pointer moves to a place of the plane, in its own coordinates; how to click there."""
        from selenium.webdriver.common.action_chains import ActionChains

        plane = self.data["planes"][int(self.js("return document.getElementById('planes')?.value ?? 0"))]
        share = (np.array([x, y]) - plane["low"]) / (np.array(plane["high"]) - plane["low"]) - 0.5
        box = self.js(
            """const c = document.getElementById('plane');
            c.scrollIntoView({block: 'center'}); const b = c.getBoundingClientRect(); return [b.width, b.height]"""
        )
        offset = np.round([share[0] * box[0], -share[1] * box[1]]).astype(int).tolist()
        actions = ActionChains(self.browser, duration=0).move_to_element_with_offset(self.element("plane"), *offset)
        actions.perform()
        return actions

    def press(self, *keys):
        self.element("plane").send_keys(*keys)

    def choose(self, name, value):
        from selenium.webdriver.support.select import Select

        Select(self.element(name)).select_by_value(value)

    def screenshot(self, path):
        """All of the page as numbers from 0 to 1, (height, width, 3), kept in a file."""
        height = self.js("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.js("return innerWidth"), "height": height, "scale": 1}
        command = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        path.write_bytes(base64.b64decode(self.browser.execute_cdp_cmd("Page.captureScreenshot", command)["data"]))
        return np.asarray(Image.open(path).convert("RGB")) / 255

    def complaints(self):
        return self.browser.get_log("browser")
