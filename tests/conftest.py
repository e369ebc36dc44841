"""What all tests share."""

import pytest

from utils import course

course.load_keras()  # as the chapters do, whatever a reader's keras.json says


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Each test starts from the same seed, whatever ran before it."""
    course.seed(0)
