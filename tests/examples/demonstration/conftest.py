"""Fixtures for the page: tiny checkpoints, opened; a server of the page; and a browser without a window."""

import shutil
import socket
import time

import pytest
import torch
from transformers import ViTImageProcessorPil

from examples.data.arguments import DataArguments
from examples.demonstration.opening import open_checkpoint
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning
from tests.conftest import TINY


DIGITS = {"image_size": 8, "num_labels": 10}
QUESTIONS = {"image_size": 75, "patch_size": 25, "question_size": 18, "num_labels": 10}
NUM_IMAGES = 40
BROWSER_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1000"),
)


def save_checkpoint(folder, model_class=AiTForImageClassification, dtype=torch.float32, **fields):
    """A tiny checkpoint whose predictions differ from image to image."""
    torch.manual_seed(0)
    model = model_class(AiTConfig(**{**TINY, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    model.to(dtype).save_pretrained(folder)
    height, width = model.config.image_shape
    statistics = {name: [0.5] * model.config.num_channels for name in ("image_mean", "image_std")}
    ViTImageProcessorPil(size={"height": height, "width": width}, **statistics).save_pretrained(folder)
    return str(folder)


def open_digits(folder, **fields):
    checkpoint = save_checkpoint(folder, **{**DIGITS, **fields})
    return open_checkpoint(checkpoint, DataArguments(dataset_name="digits"), NUM_IMAGES)


def open_questions(folder):
    return open_checkpoint(save_checkpoint(folder, AiTForRelationalReasoning, **QUESTIONS), DataArguments(), 1)


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    """A classifier of digits, opened with some of them."""
    return open_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def opened_questions(tmp_path_factory):
    """A model that answers questions, opened."""
    return open_questions(tmp_path_factory.mktemp("questions"))


@pytest.fixture(autouse=True)
def unchanged(opened, opened_questions):
    """Nothing of the page changes a model, by a bit."""
    models = [opened.model, opened_questions.model]
    states = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    yield
    for model, state in zip(models, states):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert not any(module.training for module in model.modules())


@pytest.fixture(scope="session")
def connections():
    """The hosts that this process connects to, from now on."""
    hosts, connect = set(), socket.socket.connect

    def record(self, address):
        if isinstance(address, tuple):
            hosts.add(address[0])
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", record)
        yield hosts


@pytest.fixture(scope="session")
def serve(connections):
    """Factory of a server of the page of an opened checkpoint, which gives its address."""
    pytest.importorskip("gradio", reason="the page needs the extra `demo`")
    from examples.demonstration.page import LAUNCH, build_page

    pages = {}

    def start(opened):
        if opened.name not in pages:
            page = build_page(opened)
            _, address, _ = page.launch(prevent_thread_lock=True, **LAUNCH)
            pages[opened.name] = page, address
        return pages[opened.name][1]

    yield start
    for page, _ in pages.values():
        page.close(verbose=False)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A browser without a window, see `Browser`."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("there is no chromium, or no chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="a browser is driven by selenium")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driven = webdriver.Chrome(options=options, service=Service(driver))
    yield Browser(driven)
    driven.quit()


class Browser:
    """What the tests ask of a browser: everything by script, and waiting until it is so."""

    def __init__(self, driver):
        self.driver = driver

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, *arguments, seconds=120):
        """What a script returns, once that is true."""
        end = time.monotonic() + seconds
        while not (result := self.run(script, *arguments)):
            assert time.monotonic() < end, (
                f"never true: {script} {arguments}: {self.run('return document.body.innerText')}"
            )
            time.sleep(0.05)
        return result

    def open(self, address):
        # What the empty page said is nobody's business.
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(address)
        self.wait("return document.querySelector('.panel img, .hint')")

    def wait_for_text(self, text):
        self.wait("return document.body.innerText.includes(arguments[0])", text)

    def click(self, selector, text=""):
        """Click the first visible element that has a text in it."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].find("
            "e => e.innerText.includes(arguments[1]) && e.getClientRects().length)"
        )
        self.wait(script, selector, text).click()

    def fill(self, element, text):
        """Write into a field in place of what is in it."""
        from selenium.webdriver.common.keys import Keys

        element.send_keys(Keys.CONTROL, "a")
        element.send_keys(text, Keys.ENTER)

    def get_pictures(self):
        """The pictures that can be seen, as they are embedded, once each has been decoded to some width."""
        return self.wait(
            "const seen = [...document.querySelectorAll('.panel img')].filter(e => e.getClientRects().length);"
            "return seen.length && seen.every(e => e.naturalWidth > 0) && seen.map(e => e.src)"
        )

    def get_console(self):
        """What the console holds of warnings and errors."""
        return [entry for entry in self.driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]

    def get_requests(self):
        """Where the page has sent requests to."""
        import json

        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        urls = [parameters["request"]["url"] for parameters in sent]
        # The browser's own pages, and what a page holds itself, need no network.
        return [url for url in urls if not url.startswith(("data:", "blob:", "chrome"))]
