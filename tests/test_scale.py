"""docs/scale.md contains the tables of the model, which is correct in known cases."""

from benchmarks import scale
from tests.conftest import ROOT, create_fake_config
from tests.states import create_state


def test_the_document_contains_the_tables_of_the_model():
    text = (ROOT / "docs" / "scale.md").read_text()
    for table in "\n".join(scale.tables()).split("\n\n"):
        assert table in text


def test_the_gradients_are_as_large_as_the_parameters():
    config = create_fake_config()
    config.hidden_sizes = (128, 32)
    params = create_state(config).params
    size = sum(leaf.nbytes for layer in params.values() for leaf in layer.values())
    assert scale.gradient_bytes((128, 32)) == size


def test_a_ring_of_two_sends_the_gradients_once():
    assert scale.sent_bytes((128, 32), 2) == scale.gradient_bytes((128, 32))
    link = scale.Link("", bandwidth=1e6, latency=1.0, compute=1.0)
    seconds = scale.gradient_bytes((128, 32)) / 1e6 + 2
    assert scale.all_reduce_seconds((128, 32), 2, link) == seconds


def test_wide_layers_hide_the_all_reduce_at_two_flops_per_byte():
    """Each parameter costs 8 bytes of traffic, and 4 FLOPs per example."""
    link = scale.LINKS[0]
    rows = scale.hiding_batch((2**20, 2**20), 4096, link)
    assert abs(rows / (2 * link.compute / link.bandwidth) - 1) < 0.01
