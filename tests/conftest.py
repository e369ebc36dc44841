"""What all tests share."""

import pytest
from filelock import FileLock

from utils import course

course.load_keras()  # as the chapters do, whatever a reader's keras.json says


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Each test starts from the same seed, whatever ran before it."""
    course.seed(0)


@pytest.fixture(scope="session")
def whole_site(tmp_path_factory):
    """The whole site, made once, also where several processes share the tests."""
    from tools import site

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    folder = shared / "whole-site"
    with FileLock(str(shared / "whole-site.lock")):
        if not (folder / "index.html").exists():
            site.build(folder)
    return folder
