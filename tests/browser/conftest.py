"""One headless Chromium and small programs with their reports, each made once."""

import shutil

import pytest

import pyro_vae as pv
from pyro_vae.report import html_page


@pytest.fixture(scope="module")
def chromium():
    """One headless Chromium; without one these tests fail, since a skipped test says nothing."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(found):
        pytest.fail("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    try:
        from selenium import webdriver
    except ImportError:
        pytest.fail("selenium is not installed: pip install -c constraints.txt -e '.[test,browser]'")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(found[1]))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Small programs and their reports, each made once."""
    made = {}

    def fit(name, num_latents):
        if (name, num_latents) not in made:
            data = pv.load_data(name)
            nets = pv.nets.mlp(num_latents, 40, data.num_features), pv.nets.mlp(data.num_features, 40, 2 * num_latents)
            likelihood = pv.likelihoods.Bernoulli if data.image_shape else pv.likelihoods.Normal
            guide = pv.guides.MeanFieldNormal(nets[1])
            vae = pv.VAE(pv.priors.StandardNormal(num_latents), likelihood(nets[0]), guide)
            history = pv.fit(vae, data, epochs=8, seed=0).history
            folder = tmp_path_factory.mktemp("report")
            with pytest.MonkeyPatch.context() as patch:
                if num_latents != 2:  # one page with all its pictures will do
                    patch.setattr(html_page, "draw_latent_figures", lambda *_, **__: [])
                options = {"history": history, "num_rows": 80, "num_samples": 50}
                path = html_page.write_report(folder, vae, data, config={}, records={}, **options)
            made[name, num_latents] = vae, data.valid.head(80), path
        return made[name, num_latents]

    return fit
