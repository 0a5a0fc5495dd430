"""TensorBoard itself, in a real browser: what the Graphs tab draws."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from mnist_jax.configs import default
from mnist_jax.reporting import description, graph
from tests.states import batch, create_state

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"
)
TIMEOUT_SECONDS = 60

# Polymer keeps the graph in shadow roots, which CSS selectors do not enter.
SELECT_DEEP = """
    const found = [];
    (function walk(root) {
      for (const element of root.querySelectorAll('*')) {
        if (element.matches(arguments_[0])) found.push(element);
        if (element.shadowRoot) walk(element.shadowRoot);
      }
    })(document);
"""


class Tab:
    """The Graphs tab."""

    def __init__(self, driver):
        self._driver = driver

    def _select(self, selector: str, value: str) -> list:
        script = f"const arguments_ = arguments; {SELECT_DEEP} return found.map(e => {value});"
        return self._driver.execute_script(script, selector)

    def nodes(self, kind: str) -> dict:
        """Maps node names to elements; kind is `meta` (a box) or `op`."""
        return dict(self._select(f"g.node.{kind}", "[e.__data__.node.name, e]"))

    def edge_labels(self) -> set[str]:
        return set(self._select("g.edge textPath, g.edge text", "e.textContent.trim()"))

    def choose(self, item: str) -> None:
        """Selects a graph in the list of tags."""
        script = f"""
            const arguments_ = ['paper-item']; {SELECT_DEEP}
            found.filter(e => e.textContent.trim() === arguments[0])[0].click();
        """
        self._driver.execute_script(script, item)

    def double_click(self, node: str) -> None:
        from selenium.webdriver import ActionChains

        # The layout is animated. Waits until the box no longer moves, so that the click hits.
        places = []

        def is_still() -> bool:
            places.append(self.nodes("meta")[node].rect)
            return len(places) > 5 and places[-5:] == places[-1:] * 5

        self.wait_for(is_still)
        ActionChains(self._driver).double_click(self.nodes("meta")[node]).perform()

    def wait_for(self, condition) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self._driver, TIMEOUT_SECONDS, poll_frequency=0.1).until(
            lambda driver: condition()
        )


def same_names(x, y):
    with jax.named_scope("y"):
        return jnp.sin(x) + y


@pytest.fixture(scope="module")
def tensorboard_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    logdir = tmp_path_factory.mktemp("logdir")
    config = default.get_config()
    state = jax.eval_shape(lambda: create_state(config))
    for tag, (function, *args) in description.graphs(state, batch(config.batch_size)).items():
        graph.write_graph(logdir, function, *args, tag=tag)
    graph.write_graph(logdir, same_names, 1.0, 2.0, tag="same_names")
    # With a module `notf`, TensorBoard does not import TensorFlow, which takes seconds.
    code = (
        "import sys, types; sys.modules['tensorboard.compat.notf'] = types.ModuleType('notf');"
        "from tensorboard.main import run_main; run_main()"
    )
    flags = ["--logdir", logdir, "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *flags], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        lines = (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in process.stderr)
        yield next(match for match in lines if match).group()
        process.terminate()


@pytest.fixture
def tab(tensorboard_url: str, tmp_path: Path) -> Iterator[Tab]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (
        *["headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run"],
        *["disable-background-networking", "disable-component-update", "disable-sync"],
        *["disable-quic", f"user-data-dir={tmp_path}", "window-size=1280,900"],
    ):
        options.add_argument(f"--{switch}")
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.get(f"{tensorboard_url}#graphs")
        yield Tab(driver)
    finally:
        driver.quit()


def test_the_graphs_tab(tab: Tab):
    # The tab first shows the forward pass: three boxes, and shapes on the edges.
    tab.wait_for(lambda: tab.nodes("meta"))
    assert set(tab.nodes("meta")) == {"hidden1", "hidden2", "softmax_linear"}
    assert {"100\u00d7784", "100\u00d7128", "100\u00d732"} <= tab.edge_labels()

    tab.double_click("hidden1")
    inside = {
        f"hidden1/{x}" for x in ("kernel", "bias", "dot_general", "reshape", "add", "max")
    }
    tab.wait_for(lambda: inside <= set(tab.nodes("op")))
    assert "784\u00d7128" in tab.edge_labels()

    # TensorBoard itself tells a node from a box of its name.
    tab.choose("same_names")
    tab.wait_for(lambda: set(tab.nodes("meta")) == {"y"})
    tab.double_click("y")
    tab.wait_for(lambda: {"y/sin", "y/add", "y/(y)"} <= set(tab.nodes("op")))

    # Another tag is the training step.
    tab.choose("train_step")
    tab.wait_for(lambda: "gradients" in tab.nodes("meta"))
    assert set(tab.nodes("meta")) == {
        *["hidden1", "hidden2", "softmax_linear", "loss", "gradients", "optimizer"],
        *["batch", "state"],
    }
    tab.double_click("gradients")
    tab.wait_for(lambda: "gradients/hidden1" in tab.nodes("meta"))
