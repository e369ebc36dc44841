"""docs/notation.md: each symbol stands in the formulas of the chapters that it names,
and its name in their code.
"""

import re

from tools import chapters

ROW = re.compile(
    r"^\| \$(?P<symbol>.+?)\$ \| .+ \| (?P<names>`.+`) \| (?P<chapters>[A\d, ]+) \|$"
)


def rows():
    lines = (chapters.ROOT / "docs" / "notation.md").read_text("utf-8").splitlines()
    table = [line for line in lines if line.startswith("| $")]
    found = [ROW.match(line) for line in table]
    assert len(found) > 20 and all(found), (
        "a row of the table is not of the form that this test reads"
    )
    return found


def test_symbols_stand_in_the_formulas_and_names_in_the_code():
    missing = []
    for row in rows():
        for number in row["chapters"].split(", "):
            notebook = chapters.read(chapters.find([number.zfill(2)])[0])
            prose = "\n".join(
                cell.source for cell in notebook.cells if cell.cell_type == "markdown"
            )
            code = "\n".join(
                cell.source for cell in notebook.cells if cell.cell_type == "code"
            )
            formulas = " ".join(re.findall(r"\$+(.+?)\$+", prose, re.DOTALL))
            symbol = re.escape(row["symbol"])
            if not re.search(rf"(?<![A-Za-z\\]){symbol}(?![A-Za-z])", formulas):
                missing.append(f"chapter {number}: no formula has {row['symbol']}")
            for name in re.findall(r"`(\w+)`", row["names"]):
                if not re.search(rf"\b{name}\b", code):
                    missing.append(f"chapter {number}: the code has no {name}")
    assert missing == []
