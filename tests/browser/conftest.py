import sys

import pytest
from steadydancer.tools import chromium as installed
from support.page import FLAGS, ComfyPage


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    program = installed.find()
    if program is None:
        pytest.fail(f"The browser tests need Chromium: {installed.advice(sys.executable)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, comfy_server, request, tmp_path):
    """A fresh tab on the session's server: `page.open()`, `page.drop(…)`, `page.press_run()`, …"""
    tab = chromium.new_page(viewport={"width": 1600, "height": 1000})
    yield ComfyPage(tab, comfy_server)
    if request.node.stash.get(request.config.failed_key, False):
        tab.screenshot(path=str(tmp_path / "failed.png"))
        print(f"What the page showed: {tmp_path / 'failed.png'}")
    tab.close()
