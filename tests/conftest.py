"""What all tests share."""

import keras
import pytest


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Each test starts from the same seed, whatever ran before it and in whichever process."""
    keras.utils.set_random_seed(0)
