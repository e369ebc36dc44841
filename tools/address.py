"""The repository's address, which badges and the Colab clone need. It stands here.

    python -m tools.address https://github.com/you/your-fork

changes it here, in the README and in every notebook; outputs stay as they are.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ADDRESS = "https://github.com/OWNER/generative-models-course"

ROOT = Path(__file__).resolve().parent.parent


def current() -> str:
    """The address, as `https://github.com/owner/name`."""
    return ADDRESS


def colab(notebook: str, address: str = ADDRESS) -> str:
    """The link that opens a notebook of the main branch in Colab."""
    return f"https://colab.research.google.com/github/{short(address)}/blob/main/notebooks/{notebook}"


def short(address: str) -> str:
    """`owner/name` of an address."""
    return address.removeprefix("https://github.com/")


def files(root: Path = ROOT) -> list[Path]:
    """The files that hold the address."""
    return [
        root / "tools" / "address.py",
        root / "README.md",
        root / "CITATION.cff",
        *sorted((root / "notebooks").glob("*.ipynb")),
        *sorted((root / "notebooks" / "sources").glob("*.py")),
    ]


def change(new: str, root: Path = ROOT, old: str = ADDRESS) -> int:
    """Replaces the address in all files; returns how many changed. ValueError if it is
    no GitHub address.
    """
    new = new.removesuffix("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", new):
        raise ValueError(f"{new!r} is not of the form https://github.com/owner/name.")
    changed = 0
    for path in files(root):
        if path.exists():
            text = path.read_text("utf-8")
            replaced = text.replace(short(old), short(new))
            if replaced != text:
                path.write_text(replaced, "utf-8")
                changed += 1
    return changed


def is_placeholder(address: str = ADDRESS) -> bool:
    """Whether nobody has put a repository's own address in yet."""
    return short(address).startswith("OWNER/")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--if-placeholder"]:
        del sys.argv[1]
        if not is_placeholder():
            print("The address is no placeholder: nothing to do.")
            sys.exit(0)
    if len(sys.argv) != 2:
        sys.exit(
            "Say the new address: python -m tools.address https://github.com/owner/name"
        )
    try:
        print(f"The address was changed in {change(sys.argv[1])} files.")
    except ValueError as error:
        sys.exit(str(error))
