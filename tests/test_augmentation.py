import jax
import numpy as np
import pytest

from mnist_jax.augmentation import create_augmentation, random_shift
from mnist_jax.runtime.errors import UserError


@pytest.mark.parametrize("channels", [(), (3,)])
def test_images_are_shifted_by_up_to_two_pixels(channels: tuple[int, ...]):
    images = np.zeros((200, 9, 12, *channels), np.uint8)
    images[:, 4, 5] = 255
    shifted = np.asarray(random_shift(jax.random.key(0), images))
    assert shifted.shape == images.shape
    _, rows, places = np.nonzero(shifted.reshape(200, 9, 12, -1)[..., 0])
    assert (set(rows), set(places)) == (set(range(2, 7)), set(range(3, 8)))
    assert (shifted.reshape(200, -1) == 255).sum(axis=1).tolist() == [
        max(1, *channels, 1)
    ] * 200


def test_the_key_decides():
    images = np.arange(4 * 28 * 28).reshape(4, 28, 28).astype(np.uint8)
    one, same, other = (np.asarray(random_shift(jax.random.key(k), images)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_an_unknown_name_is_an_error():
    assert create_augmentation("") is None
    with pytest.raises(UserError, match="is not in augmentation"):
        create_augmentation("flip")
