"""The lines under *Copy it* of each page work in an empty folder, with model.py and what export wrote alone."""

import re
import shutil
import subprocess
import sys

import pytest
import torch

from common.provenance import ROOT
from tests.start import here
from tools import export
from tools.repository import papers


def lines_of(paper):
    (block,) = re.findall(
        r"\n## Copy it\n[^#]*?```python\n(.*?)```", (ROOT / "papers" / paper / "README.md").read_text(), re.DOTALL
    )
    return block


@pytest.mark.slow
@pytest.mark.parametrize("paper", papers())
def test_copied(paper, tmp_path):
    """The net is of the run: each of its tensors is one that the run has learned."""
    code, output = here(f"papers.{paper}.train", "smoke", "--out", str(tmp_path / "runs"))
    assert code == 0, output
    run, copy = tmp_path / "runs" / paper / "smoke/seed0", tmp_path / "copy"
    export.write(paper, str(run), "safetensors", str(copy))
    (copy / "README.md").unlink()
    shutil.copy(ROOT / "papers" / paper / "model.py", copy)
    (copy / "use.py").write_text(lines_of(paper) + 'import torch\n\ntorch.save(net.state_dict(), "net.pt")\n')
    ran = subprocess.run([sys.executable, "use.py"], cwd=copy, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    net, learned = torch.load(copy / "net.pt"), export.learned(run, paper)
    for name, each in net.items():
        assert any(key.endswith(name) and torch.equal(each, w) for key, w in learned.items()), name
