"""The command `python -m mnist_jax.demo`, over HTTP and in a browser."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.images import draw_seven

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextlib.contextmanager
def demo(*args):
    """Runs the command; yields its process and the port that it printed."""
    with subprocess.Popen(
        [sys.executable, "-m", "mnist_jax.demo", *map(str, args)],
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
    status, body = ask(
        port, "POST", "/predict", np.asarray(draw_seven(280).convert("L")).tobytes()
    )
    answer = json.loads(body)
    assert status == 200
    assert answer["digit"] == np.argmax(answer["probabilities"]) == 7
    assert len(answer["image"]) == 784
    assert max(answer["image"]) == 255


def test_answers_an_empty_sheet(port):
    status, body = ask(port, "POST", "/predict", bytes(280 * 280))
    assert (status, json.loads(body)["digit"]) == (200, None)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/../pyproject.toml", None, {}, 404),
        ("GET", "/demo.html", None, {}, 404),
        ("POST", "/", b"", {}, 404),
        ("POST", "/predict", b"", {}, 400),
        ("POST", "/predict", b"x" * 784, {}, 400),
        ("POST", "/predict", b"", {"Content-Length": "-1"}, 400),
        ("POST", "/predict", b"", {"Content-Length": "many"}, 400),
        ("POST", "/predict", b"", {"Content-Length": "9" * 30}, 413),
        ("DELETE", "/", None, {}, 405),
        ("PUT", "/predict", b"x", {}, 405),
    ],
)
def test_refuses_everything_else(port, method, path, body, headers, status):
    assert ask(port, method, path, body, headers)[0] == status
    assert ask(port, "GET", "/")[0] == 200


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
                "mnist_jax.demo",
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
        assert second.stderr == f"port: {port}: Address already in use; choose another --port\n"
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


@pytest.mark.parametrize("kind", ["mouse", "touch", "pen"])
def test_a_drawing_is_recognised_in_chromium(port, browser, kind):
    from selenium.webdriver.common.action_chains import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    def answer() -> str:
        return browser.find_element(By.ID, "answer").text

    def shares() -> list[float]:
        rows = browser.find_elements(By.CSS_SELECTOR, "#bars li")
        return [float(row.text.split("\n")[-1].rstrip("%")) for row in rows]

    def wait(condition) -> None:
        WebDriverWait(browser, 20).until(lambda _: condition())

    def stroke(*points: tuple[int, int]) -> None:
        """Draws a line through points relative to the centre of the paper."""
        actions = ActionBuilder(browser, mouse=PointerInput(kind, kind))
        pointer = actions.pointer_action
        pointer.move_to(paper, *points[0]).pointer_down()
        for x, y in points[1:]:
            pointer.move_to(paper, x, y)
        pointer.pointer_up()
        actions.perform()

    browser.get(f"http://127.0.0.1:{port}/")
    paper = browser.find_element(By.ID, "paper")
    wait(lambda: browser.find_element(By.TAG_NAME, "body").get_dom_attribute("data-answered"))
    assert answer() == ""

    stroke((-60, -80), (0, -80), (60, -80))
    wait(lambda: answer() != "")
    first = shares()
    stroke((60, -80), (30, 0), (0, 90))
    wait(lambda: answer() == "7" and shares() != first)
    assert len(shares()) == 10
    assert np.argmax(shares()) == 7

    ink = browser.execute_script(
        "return [...seen.getImageData(0, 0, 28, 28).data].filter((v, i) => i % 4 == 0)"
    )
    assert len(ink) == 784
    assert max(ink) == 255
    if folder := os.environ.get("MNIST_JAX_SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/demo.png")

    browser.find_element(By.ID, "clear").click()
    wait(lambda: answer() == "")
    assert not browser.find_element(By.ID, "problem").text
