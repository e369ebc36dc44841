"""The work behind the Makefile's targets.

What stops a tool for a reason that a reader can see to, Ctrl-C or a CourseError, ends
it with one line in place of a traceback.
"""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path


def _one_line(kind, error, trace):
    if issubclass(kind, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C adds nothing
        print("\nStopped.", flush=True)
    elif kind.__name__ == "CourseError":
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _one_line
if hasattr(sys.stdout, "reconfigure"):  # what a terminal cannot show comes as "?"
    sys.stdout.reconfigure(errors="replace")


def ensure_home() -> None:
    """A temporary home folder where there is none to write in: Jupyter needs one."""
    home = Path("~").expanduser()
    if not os.access(home, os.W_OK):
        folder = tempfile.mkdtemp(prefix="course-home-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ.update(HOME=folder, USERPROFILE=folder)


ensure_home()  # before matplotlib, Jupyter or IPython look for it
