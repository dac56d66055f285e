"""What README.md shows works as shown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_python_example(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(example.splitlines()) <= 10, "it is called the ten-line example"
    script = tmp_path / "example.py"
    script.write_text(example)
    run = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert re.match(r"3 weights: \[.*\]\n$", run.stdout), run.stdout
    assert len(set(re.findall(r"[\d.]+", run.stdout.split(":")[1]))) == 1  # always seen together


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


@pytest.mark.parametrize("command", ["fastps", "fastps-launch", "fastps-bench"])
def test_commands_are_installed(command: str) -> None:
    """Every command that README.md names is one that pyproject.toml installs."""
    scripts = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[1].split("[")[0]
    assert re.search(rf'^{command} = "', scripts, re.MULTILINE)
    assert f"{command} " in README


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:`|^    )make ([a-z]+)", (ROOT / document).read_text(), re.M))
        assert named <= targets, f"{document} names {named - targets}"
