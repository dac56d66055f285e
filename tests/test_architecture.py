"""The house's rules that no compiler checks: floors, and who alone may know what."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CPP = ROOT / "cpp"
PYTHON = ROOT / "python" / "fastps"

# A folder may include itself and lower floors, never its neighbours.
FLOORS = [
    {"base"},
    {"kernels", "routing", "data"},
    {"rules", "wire"},
    {"store", "transport"},
    {"client", "server"},
    {"binding", "fuzz", "stress"},
]
FLOOR_OF = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}

# The modules and packages of fastps by floor, with the same rule, except that the parts of the face
# may use each other.
PYTHON_FLOORS = [
    {"_version", "errors"},
    {"config", "output", "standard_files", "_core", "_core_test", "_values", "pickling"},
    {"consistency", "initializers", "optimizers", "watching", "_libzmq"},
    {"data", "scheduler"},
    {"arguments"},
    {"control", "futures"},
    {"keys"},
    {"checkpoint"},
    {"embedded"},
    {"steps"},
    {"life"},
    {"lives"},
    {"tables"},
    {"collectives", "initial_values", "saving"},
    {"client"},
    {"connection"},
    {"__init__", "__main__", "cli", "launch", "models"},
]
PYTHON_FLOOR_OF = {part: floor for floor, parts in enumerate(PYTHON_FLOORS) for part in parts}
FACE = len(PYTHON_FLOORS) - 1

# Files that take the time as an argument and start no thread and open no socket, so that tests can
# drive them through every order of events.
PURE_PYTHON = sorted(set((PYTHON / "scheduler").glob("*.py")) - {PYTHON / "scheduler/service.py"})
PURE_CPP = {
    *("client/batch", "client/key_batch", "client/range_batch", "client/shard_plan"),
    *("client/in_flight", "client/traffic", "client/joined_reply"),
    *(
        "server/chain_node",
        "server/chain_entries",
        "server/chain_fill",
        "server/shard_chain",
        "store/entry",
        "store/shard_image",
    ),
    *("wire/chain_messages", "wire/codec", "wire/map_codec", "wire/notices", "wire/reports"),
}
IMPURE_MODULES = {"asyncio", "random", "secrets", "select", "socket", "subprocess", "threading"}
IMPURE_MODULES |= {"time", "zmq"}


def cpp_files() -> list[Path]:
    return sorted(path for path in CPP.rglob("*") if path.suffix in {".h", ".cc"})


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def python_files() -> list[Path]:
    return sorted(PYTHON.rglob("*.py"))


def part_of(module: str) -> str:
    """Return "scheduler" for fastps.scheduler.wire, "" for fastps itself."""
    return [*module.split("."), ""][1]


def imports(path: Path) -> Iterator[str]:
    """Yield the full names of imported modules, those for type checks only left out."""
    tree = ast.parse(path.read_text())
    for_types = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    skipped = {id(inner) for node in for_types for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import; write the full name"
            assert node.module is not None
            if node.module == "fastps":  # `from fastps import _core` imports fastps._core
                yield from (f"fastps.{name.name}" for name in node.names)
            else:
                yield node.module


def test_every_folder_has_a_floor() -> None:
    assert {path.relative_to(CPP).parts[0] for path in cpp_files()} == set(FLOOR_OF)


def test_includes_go_down() -> None:
    wrong = []
    for path in cpp_files():
        folder = path.relative_to(CPP).parts[0]
        for include in includes(path):
            other = include.split("/")[0]
            if other in FLOOR_OF and other != folder and FLOOR_OF[other] >= FLOOR_OF[folder]:
                wrong.append(f"{path.relative_to(ROOT)} includes {include}")
    assert wrong == []


def test_libraries_link_down() -> None:
    text = re.sub(r"#.*", "", (CPP / "CMakeLists.txt").read_text())
    libraries = re.findall(r"fastps_library\((\w+)(?:\s+LINKS\s+((?:\w+\s+)*?))?\s*SOURCES", text)
    assert {name for name, _ in libraries} == set(FLOOR_OF) - FLOORS[-1]
    wrong = [
        f"{name} links {other}"
        for name, others in libraries
        for other in others.split()
        if FLOOR_OF[other] >= FLOOR_OF[name]
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [
        (r'#\s*include\s*[<"]pybind11/|#\s*include\s*<Python\.h>', "binding"),
        (r'#\s*include\s*[<"]zmq|\bdlopen\s*\(', "transport"),
        (r"#\s*include\s*<\w*intrin\.h>|\b_mm\d*_\w+\(|__builtin_ia32_", "kernels"),
    ],
    ids=["pybind11", "libzmq", "intrinsics"],
)
def test_only_one_folder_knows(pattern: str, folder: str) -> None:
    found = {path for path in cpp_files() if re.search(pattern, path.read_text())}
    assert [path for path in found if path.relative_to(CPP).parts[0] != folder] == []


def test_one_header_prefetches() -> None:
    """The builtin vanishes where it is not inlined early; base/prefetch.h is what stays."""
    found = {str(p.relative_to(CPP)) for p in cpp_files() if "_prefetch(" in p.read_text()}
    assert found == {"base/prefetch.h"}


def test_headers_open_with_a_comment_and_a_guard() -> None:
    for path in set(CPP.rglob("*.h")) - set(CPP.rglob("*-inl.h")):  # those are for several places
        text = path.read_text()
        assert text.startswith("//"), f"{path} does not say what it is"
        assert "\n#pragma once\n" in text, path


def test_pure_cpp_reads_no_clock_and_starts_no_thread() -> None:
    banned = {"base/clock.h", "chrono", "thread", "mutex", "ctime", "random"}
    found = set()
    for path in cpp_files():
        unit = str(path.relative_to(CPP).with_suffix(""))
        if unit in PURE_CPP:
            found.add(unit)
            names = set(includes(path))
            assert not {n for n in names if n in banned or n.startswith("transport/")}, path
    assert found == PURE_CPP, "all of them exist"


def test_every_python_part_has_a_floor() -> None:
    parts = {path.relative_to(PYTHON).with_suffix("").parts[0] for path in python_files()}
    assert parts <= set(PYTHON_FLOOR_OF), "give new ones a floor in PYTHON_FLOORS, above"


def test_python_imports_go_down() -> None:
    wrong = []
    for path in python_files():
        own = path.relative_to(PYTHON).with_suffix("").parts[0]
        for module in imports(path):
            other = part_of(module)
            if not module.startswith("fastps.") or other == own or PYTHON_FLOOR_OF[own] == FACE:
                continue
            if PYTHON_FLOOR_OF.get(other, FACE) >= PYTHON_FLOOR_OF[own]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert wrong == []


@pytest.mark.parametrize("path", PURE_PYTHON, ids=lambda path: path.name)
def test_pure_python_does_no_input_or_output(path: Path) -> None:
    assert {module.split(".")[0] for module in imports(path)} & IMPURE_MODULES == set()


def test_one_module_reads_the_environment() -> None:
    readers = {
        path.name for path in python_files() if re.search(r"os\.(environ|getenv)", path.read_text())
    }
    assert readers == {"config.py"}


def test_no_pickle() -> None:
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    for path in python_files():
        assert not {module.split(".")[0] for module in imports(path)} & banned, path
        assert "allow_pickle=True" not in path.read_text(), path


def test_needs_only_numpy_and_pyzmq_to_import() -> None:
    """Extras are imported where they are used, never at the top of a module."""
    allowed = {"fastps", "numpy", "zmq", "__future__"}
    for path in python_files():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            else:
                continue
            tops = {name.split(".")[0] for name in names}
            assert tops <= allowed | sys.stdlib_module_names, f"{path}: {tops}"
