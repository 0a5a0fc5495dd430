from ml_collections import ConfigDict

from mnist_jax import train_loop


def test_a_run_on_fake_data_learns(fake_config: ConfigDict, tmp_path):
    state = train_loop.train_and_evaluate(fake_config, tmp_path / "run")
    assert int(state.step) == 40
