"""The command `mnist-jax demo`, over HTTP and in a browser."""

import concurrent.futures
import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from mnist_jax.digits.normalize import normalize
from mnist_jax.train_loop import train_and_evaluate
from tests.conftest import ROOT
from tests.images import draw_seven

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


BLANK = png(Image.new("L", (280, 280)))


@contextlib.contextmanager
def demo(*args):
    """Runs the command; yields its process and the port that it printed."""
    with subprocess.Popen(
        [sys.executable, "-m", "mnist_jax", "demo", *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            process.stdout.readline()
            line = process.stdout.readline()
            yield process, int(line.split("127.0.0.1:")[1].split("/")[0])
        finally:
            process.kill()


SERVER = """
import sys
from mnist_jax.commands import demo
demo._Handler.timeout = 0.2
names = ["Bag", "Ankle boot", "</script>" + 40 * "x"]
about = {"run": "Step 1 of run", "classes": names, "shape": [28, 28], "draws": True}
def predict(file):
    return {"label": 1, "probabilities": [0, 1, 0], "image": [0] * 784, "note": ""}
with demo._Server(predict, about, sys.argv[1], 0) as server:
    print(server.url, flush=True)
    server.serve_forever()
"""


@contextlib.contextmanager
def server(host="127.0.0.1"):
    """Runs the server with a short timeout and without a model; yields its address."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, host], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield urllib.parse.urlsplit(process.stdout.readline().strip())
        finally:
            process.kill()


@pytest.fixture(scope="module")
def port(trained_workdir):
    with demo("--workdir", trained_workdir, "--port", 0) as (_, port):
        yield port


def ask(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()


def test_answers_a_drawing(port):
    status, body = ask(port, "POST", "/predict", png(draw_seven(280)))
    answer = json.loads(body)
    assert status == 200
    assert answer["label"] == np.argmax(answer["probabilities"]) == 7
    assert len(answer["image"]) == 784
    assert max(answer["image"]) == 255
    assert answer["note"] == ""


def test_notes_what_predict_does(port):
    two = np.hstack([np.asarray(draw_seven(280).convert("L"))[:, 70:210]] * 2)
    status, body = ask(port, "POST", "/predict", png(Image.fromarray(two)))
    _, note = normalize(two[:, :, np.newaxis] / np.float32(255))
    assert (status, json.loads(body)["note"]) == (200, note)
    assert "several digits" in json.loads(body)["note"]


@pytest.mark.parametrize("content", [BLANK, b"x" * 784], ids=["empty", "no image"])
def test_answers_what_is_no_digit(port, content):
    status, body = ask(port, "POST", "/predict", content)
    assert (status, json.loads(body).keys()) == (200, {"error"})


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/../pyproject.toml", None, {}, 404),
        ("GET", "/demo.html", None, {}, 404),
        ("POST", "/", b"", {}, 404),
        ("POST", "/predict", b"", {}, 400),
        ("POST", "/predict", b"", {"Content-Length": "-1"}, 400),
        ("POST", "/predict", b"", {"Content-Length": "many"}, 400),
        ("POST", "/predict", b"", {"Content-Length": "9" * 30}, 400),
        ("POST", "/predict", b"", {"Content-Length": "9" * 5000}, 400),
        ("DELETE", "/", None, {}, 501),
        ("PUT", "/predict", b"x", {}, 501),
    ],
)
def test_refuses_everything_else(port, method, path, body, headers, status):
    assert ask(port, method, path, body, headers)[0] == status
    assert ask(port, "GET", "/")[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}", "Origin": "http://evil.example:{port}"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_refuses_what_another_site_sends(port, method, headers):
    headers = {name: value.format(port=port) for name, value in headers.items()}
    status, body = ask(port, method, "/", headers=headers)
    assert status == 403
    assert b"Open the address that the command printed" in body


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_answers_its_own_page(port, name):
    headers = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
    assert ask(port, "POST", "/predict", BLANK, headers)[0] == 200


def test_another_address_than_loopback_needs_the_token():
    with server("0.0.0.0") as url:
        assert len(url.path) > 20
        headers = {"Host": "this-machine"}
        for path in ("/", "/predict", url.path[:-2], f"/x{url.path}"):
            assert ask(url.port, "GET", path, headers=headers)[0] == 403
        assert ask(url.port, "POST", "/predict", BLANK, headers)[0] == 403
        assert ask(url.port, "GET", url.path, headers=headers)[0] == 200
        prediction = ask(url.port, "POST", f"{url.path}predict", BLANK, headers)
        assert prediction[0] == 200
        foreign = headers | {"Origin": "http://evil.example"}
        assert ask(url.port, "GET", url.path, headers=foreign)[0] == 403


def test_two_hundred_requests_of_fifty_clients_at_once(port):
    with concurrent.futures.ThreadPoolExecutor(50) as clients:
        asked = [clients.submit(ask, port, "POST", "/predict", BLANK) for _ in range(200)]
    assert [answer.result()[0] for answer in asked] == [200] * 200


@pytest.mark.parametrize(
    "start",
    [
        "GET / HTTP/1.1\r\nX: ",
        "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 78400\r\n\r\n",
    ],
)
def test_a_client_that_sends_no_more_does_not_keep_a_connection(start):
    with server() as url, socket.create_connection((url.hostname, url.port), 30) as connection:
        connection.sendall(start.encode())
        assert connection.recv(1) == b""


def test_the_page_requests_nothing_from_other_servers(port):
    page = ask(port, "GET", "/")[1].decode()
    assert "://" not in page
    assert "<script src" not in page


def test_listens_on_loopback_only(port):
    with socket.socket() as probe:
        probe.settimeout(5)
        # Another address of this machine: a server on all addresses would answer.
        assert probe.connect_ex(("127.0.0.2", port)) != 0


def test_ctrl_c_stops_it_and_a_port_in_use_is_an_error(trained_workdir):
    with demo("--workdir", trained_workdir, "--port", 0) as (process, port):
        second = subprocess.run(
            [
                sys.executable,
                "-m",
                "mnist_jax",
                "demo",
                "--workdir",
                trained_workdir,
                "--port",
                str(port),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert second.returncode == 2
        assert second.stderr == (
            f"port: 127.0.0.1:{port}: Address already in use; choose another --port or --host\n"
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1000,760",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """The page in a browser."""

    def __init__(self, browser, address: str = ""):
        self.browser = browser
        if address:
            browser.get(address)
            self.wait(lambda: self.element("body").get_dom_attribute("data-answered"))

    def element(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def answer(self) -> str:
        return self.element("#answer").text

    def shares(self) -> list[float]:
        rows = self.browser.find_elements("css selector", "#bars li span:last-child")
        return [float(row.text.rstrip("%")) for row in rows]

    def wait(self, condition) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.browser, 20).until(lambda _: condition())

    def stroke(self, kind: str, *points: tuple[int, int]) -> None:
        """Draws a line through points relative to the centre of the paper."""
        from selenium.webdriver.common.action_chains import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        paper = self.element("#paper")
        actions = ActionBuilder(self.browser, mouse=PointerInput(kind, kind))
        pointer = actions.pointer_action
        pointer.move_to(paper, *points[0]).pointer_down()
        for x, y in points[1:]:
            pointer.move_to(paper, x, y)
        pointer.pointer_up()
        actions.perform()

    def press(self, *keys: str) -> None:
        self.element("body").send_keys("".join(keys))

    def overflows(self) -> list[str]:
        """The elements whose content is wider than they are, or than the window."""
        script = """
            const wide = [...document.querySelectorAll("body *")].filter(e =>
                e.getBoundingClientRect().right > innerWidth || e.clientWidth
                && getComputedStyle(e).overflow === "visible"
                && e.scrollWidth > e.clientWidth + 1);
            return wide.map(e => e.outerHTML)"""
        return self.browser.execute_script(script)

    def screenshot(self, name: str) -> None:
        if folder := os.environ.get("MNIST_JAX_SCREENSHOTS"):
            self.browser.save_screenshot(f"{folder}/{name}.png")


@pytest.fixture
def phone(browser):
    """The browser with the window of a small phone."""
    metrics = {"width": 375, "height": 667, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("kind", ["mouse", "touch", "pen"])
def test_a_drawing_is_recognised_in_chromium(port, browser, kind):
    page = Page(browser, f"http://127.0.0.1:{port}/")
    assert page.answer() == ""
    assert len(browser.find_elements("css selector", "#bars li")) == 10

    page.stroke(kind, (-60, -80), (0, -80), (60, -80))
    page.wait(lambda: page.answer() != "")
    first = page.shares()
    page.stroke(kind, (60, -80), (30, 0), (0, 90))
    page.wait(lambda: page.answer() == "7" and page.shares() != first)
    assert len(page.shares()) == 10
    assert np.argmax(page.shares()) == 7

    ink = browser.execute_script(
        "return [...seen.getImageData(0, 0, 28, 28).data].filter((v, i) => i % 4 == 0)"
    )
    assert len(ink) == 784
    assert max(ink) == 255
    page.screenshot("demo")

    page.element("#clear").click()
    page.wait(lambda: page.answer() == "")
    assert not page.element("#problem").text


def test_undo_redo_and_clear_by_button_and_key_in_chromium(port, browser):
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, f"http://127.0.0.1:{port}/")

    def paper() -> str:
        return browser.execute_script("return paper.toDataURL()")

    papers = [paper()]
    assert not page.element("#undo").is_enabled()
    for x in (-60, 0, 60):
        page.stroke("mouse", (x, -60), (x, 60))
        papers.append(paper())
    page.press(Keys.ESCAPE)
    assert paper() == papers[0]
    page.press(Keys.CONTROL, "z")
    assert paper() == papers[3]
    page.press(Keys.TAB, Keys.NULL)
    page.element("#undo").send_keys(Keys.SPACE)
    assert paper() == papers[2]
    page.element("#redo").click()
    assert paper() == papers[3]
    assert page.element("#redo").is_enabled()
    page.press(Keys.CONTROL, "zzzy")
    assert paper() == papers[1]
    page.stroke("mouse", (-90, 0), (90, 0))
    assert not page.element("#redo").is_enabled()
    page.press(Keys.CONTROL, "zz")
    assert paper() == papers[0]
    assert not page.element("#undo").is_enabled()
    page.press(Keys.CONTROL, "z")
    assert paper() == papers[0]


def test_a_picture_is_dropped_in_chromium(browser, fake_config, tmp_path):
    """A model of other images than drawings of digits: colours, and names of classes."""
    image, label = np.zeros((60, 20, 30, 3), np.uint8), np.arange(60) % 2
    image[label == 0, :, :, 0] = image[label == 1, :, :, 2] = 255
    arrays = {"x_train": image, "y_train": label, "class_names": ["red", "blue"]}
    np.savez(tmp_path / "own.npz", **arrays)
    fake_config.update(dataset=str(tmp_path / "own.npz"), batch_size=10)
    train_and_evaluate(fake_config, tmp_path / "run")
    picture = tmp_path / "blue.png"
    Image.new("RGB", (300, 200), (0, 0, 255)).save(picture)
    with demo("--workdir", tmp_path / "run", "--port", 0) as (_, port):
        page = Page(browser)
        browser.get(f"http://127.0.0.1:{port}/")
        page.element("#file").send_keys(str(picture))
        page.wait(lambda: page.answer() == "blue")
        seen = browser.execute_script("return [...seen.getImageData(0, 0, 30, 20).data]")
        assert seen == [0, 0, 255, 255] * 600
        assert not page.element("#paper").is_displayed()
        page.screenshot("demo_picture")
        (tmp_path / "text.png").write_text("no image")
        page.element("#file").send_keys(str(tmp_path / "text.png"))
        page.wait(lambda: "not an image" in page.element("#note").text)
        assert page.answer() == ""


def test_a_phone_shows_all_without_scrolling(port, phone):
    page = Page(phone, f"http://127.0.0.1:{port}/")
    page.stroke("touch", (0, -80), (0, 80))
    page.wait(lambda: page.answer() == "1")
    assert page.overflows() == []
    bottom = phone.execute_script("return bars.getBoundingClientRect().bottom")
    assert bottom < 553  # What a browser's own bars leave of 667 pixels.
    page.screenshot("demo_phone")


def test_names_of_the_run_and_its_classes_are_shown_in_chromium(phone):
    with server() as url:
        page = Page(phone, url.geturl())
        assert page.element("#about").text.startswith("Step 1 of run; classes: Bag, Ankle boot")
        assert page.answer() == "Ankle boot"
        names = phone.find_elements("css selector", "#bars li span:first-child")
        assert [name.text for name in names] == ["Bag", "Ankle boot", "</script>" + 40 * "x"]
        assert page.shares() == [0, 100, 0]
        assert page.overflows() == []
        page.screenshot("demo_names")
