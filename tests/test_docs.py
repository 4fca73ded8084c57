"""Pages that are written from the code say what the code says."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_matrix_is_the_table():
    """`python docs/matrix.py` writes it again."""
    page = runpy.run_path(str(DOCS / "matrix.py"))["page"]()
    assert (DOCS / "matrix.rst").read_text() == page
