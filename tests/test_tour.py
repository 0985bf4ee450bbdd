"""docs/tour.ipynb runs from its first cell to its last, in a kernel of its own."""

import nbclient
import nbformat
import pytest

from tests.helpers.project import ROOT


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    done = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert (len(cells), len(pictures)) == (8, 3)
