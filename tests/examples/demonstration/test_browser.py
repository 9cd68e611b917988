"""The page in a real browser: it appears, choices are answered, mistakes are told, and nothing leaves the machine."""

import re
from urllib.parse import urlsplit

import pytest
from PIL import Image

from examples.demonstration import scenes
from examples.demonstration.looking import look_at


@pytest.fixture
def page(browser, serve, opened):
    browser.open(serve(opened))
    yield browser
    assert browser.get_console() == []


def name_prediction(opened, pixel_values):
    return opened.label_names[int(look_at(opened, pixel_values).observation.logits.argmax())]


def test_image_is_chosen_and_classified(page, opened):
    before = page.get_pictures()
    assert len(before) == 3
    page.click(".choices button[aria-label^='Thumbnail 6 ']")
    # The classes are offered in order, so this one is the first image of class 5.
    row = opened.images.labels.tolist().index(5)
    said = name_prediction(opened, opened.images.pixels[row])
    page.wait_for_text(f"{'Right' if said == '5' else 'Wrong'}: it is 5.")
    assert page.run("return document.querySelector('.output-class').innerText") == said
    page.wait("return document.querySelector('.panel img').src !== arguments[0]", before[0])
    assert len(set(page.get_pictures()) - set(before)) == 3


def test_layer_is_turned(page):
    before = page.get_pictures()
    page.fill(page.wait("return document.querySelector('input[type=number]')"), "0")
    page.wait("return document.querySelector('.panel img').src !== arguments[0]", before[0])
    assert len(set(page.get_pictures()) - set(before)) == 3


def test_broken_upload_is_told_and_the_next_one_classified(page, opened, tmp_path):
    broken, good = tmp_path / "broken.png", tmp_path / "good.png"
    Image.new("L", (20, 20), 90).save(good)
    broken.write_bytes(good.read_bytes()[:40])
    field = page.wait("return document.querySelector('input[type=file]')")
    field.send_keys(str(broken))
    page.wait_for_text("This file cannot be read as an image")
    assert "/tmp" not in page.run("return document.querySelector('.toast-wrap').innerText")
    before = page.get_pictures()
    field.send_keys(str(good))
    page.wait("return document.querySelector('.panel img').src !== arguments[0]", before[0])
    said = name_prediction(opened, opened.read({"path": str(good), "bytes": None}, "good"))
    assert page.run("return document.querySelector('.output-class').innerText") == said
    # Whether it is right is not known.
    assert "it is" not in page.run("return document.body.innerText")


def test_memory_adapts_and_is_reset(page):
    page.click("button[role=tab]", "A memory that adapts")
    page.wait_for_text("No batch has been sent yet")
    page.click("button", "Send 10 batches")
    page.wait_for_text("(10 batches of 32)")
    assert len(page.get_pictures()) == 2
    page.click("button", "Reset the memory")
    page.wait_for_text("No batch has been sent yet")
    assert "batches of 32" not in page.run("return document.body.innerText")


def test_question_is_chosen_and_answered(browser, serve, opened_questions):
    browser.open(serve(opened_questions))
    assert len(browser.get_pictures()) == 4
    browser.wait_for_text("What is the shape of the object closest to red?")
    assert browser.run("return [...document.querySelectorAll('button[role=tab]')].map(e => e.innerText)") == [
        "Questions about a scene"
    ]
    question = browser.wait("return document.querySelector('input[aria-label=Question]')")
    question.click()
    browser.click("ul[role=listbox] li", "near the line through A and B")
    browser.wait("return document.querySelector('input[aria-label=B]')")
    browser.wait_for_text("Is any near the line through red and green?")
    name = next(name for name in scenes.QUESTIONS if "near the line" in name)
    _, look = scenes.ask(opened_questions, scenes.make_scene(opened_questions, 0), name, "red", "green")
    browser.wait_for_text(f"it is {look.truth}.")
    assert browser.get_console() == []


def test_page_fits_a_narrow_screen(page):
    # A window can be no narrower than 500.
    metrics = {"width": 480, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.wait("return window.innerWidth === 480")
        # A class may be called anything.
        names = "document.querySelectorAll('.output-class, .confidence-set .text')"
        page.run(f"for (const name of {names}) name.innerText = 'x'.repeat(60)")
        assert page.wait("return document.documentElement.scrollWidth") <= 480
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_leaves_the_machine(browser, serve, opened, connections):
    address = serve(opened)
    browser.open(address)
    browser.get_pictures()
    browser.click("button[role=tab]", "A memory that adapts")
    requests = browser.get_requests()
    assert len(requests) > 10
    assert {urlsplit(url).hostname for url in requests} == {"127.0.0.1"}
    assert connections <= {"127.0.0.1", "localhost", "::1"} and connections
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
