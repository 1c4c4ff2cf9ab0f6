"""The shape of the repository: rooms import only lower rooms, light rooms stay light, nothing lies about."""

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dmsae_ray"

# Lowest first; a room imports rooms with a lower number only (and itself).
LEVELS = {
    "errors": 0,
    "lazy": 0,
    "files": 1,
    "config": 2,
    "sae": 3,
    "lm": 3,
    "saebench": 3,
    "distill": 4,
    "evaluation": 4,
    "groundtruth": 5,
    "corpus": 5,
    "store": 6,
    "harvest": 7,
    "feed": 8,
    "plan": 9,
    "results": 10,
    "sweep": 11,
    "tracking": 11,
    "report": 12,
    "cli": 13,
}
CLUSTER = {"ray", "mlflow"}
FORBIDDEN = {
    "errors": {*CLUSTER, "torch", "transformers"},
    "lazy": {*CLUSTER, "torch", "transformers"},
    "files": {*CLUSTER, "torch", "transformers"},
    "config": {*CLUSTER, "torch", "transformers"},
    "sae": {*CLUSTER, "transformers", "tokenizers", "datasets"},
    "distill": {*CLUSTER, "transformers", "tokenizers", "datasets"},
    "lm": CLUSTER,
    "saebench": {*CLUSTER, "transformers"},
    "evaluation": CLUSTER,
    "groundtruth": {*CLUSTER, "transformers", "tokenizers", "datasets"},
    "corpus": CLUSTER,
    "store": CLUSTER,
    "harvest": {"mlflow"},
    "feed": {"mlflow"},
    "plan": CLUSTER,
    "results": CLUSTER,
    "sweep": {"mlflow"},
    "tracking": {"torch", "transformers"},
    "report": CLUSTER,
}
TOP_LEVEL = {
    ".ci",
    ".github",
    ".gitignore",
    "LICENSE",
    "README.md",
    "cluster.yaml",
    "dmsae_ray",
    "pyproject.toml",
    "sweeps",
    "tests",
}
"""Not all of them have to be there."""

CHEAP = {"dmsae_ray", "__future__", "importlib", "typing"}
"""What the package itself may import; of its own rooms nothing."""

Import = tuple[str, int]
"""What is imported (dotted), and on which line."""


def room_of(path: Path) -> str:
    """The room (or single module) of the package that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import of a source text, at whatever depth: in functions, under `if TYPE_CHECKING`, by importlib."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + is_package]
                base = ".".join([*kept, *([base] if base else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__", "find_spec") and isinstance(node.args[0].value, str):
                yield node.args[0].value, node.lineno


def breaches(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Which imports of a module break the rules."""
    room = [*module.split("."), ""][1]
    found = []
    for name, line in imports(source, module, is_package=is_package):
        top, *rest = name.split(".")
        if top == "dmsae_ray" and rest and rest[0] in LEVELS and rest[0] != room:
            if room and LEVELS[rest[0]] >= LEVELS[room]:
                found.append(f"{module}:{line} imports {name}, which is not below {room}")
            elif not room:
                found.append(f"{module}:{line} imports {name}: `import dmsae_ray` must stay cheap")
            elif (PACKAGE / rest[0]).is_dir() and (len(rest) > 2 or rest[-1] in modules_of(rest[0])):
                found.append(f"{module}:{line} imports {name}: a room is entered by its face, dmsae_ray.{rest[0]}")
        if top in FORBIDDEN.get(room, set()) or (not room and top not in CHEAP):
            found.append(f"{module}:{line} imports {name}, which {room or 'the package itself'} must not")
    return found


def modules_of(room: str) -> set[str]:
    """Names of a room's modules."""
    return {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__", "__main__"}


def modules() -> list[tuple[Path, str]]:
    """Every source file of the package with its dotted name."""
    files = sorted(PACKAGE.rglob("*.py"))
    return [(p, ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")) for p in files]


def test_every_part_of_the_package_has_a_level() -> None:
    parts = {room_of(path) for path, _ in modules()} - {"__init__"}
    assert parts - set(LEVELS) == set(), "say in LEVELS where it belongs"


@pytest.mark.parametrize(("path", "module"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_room_imports_only_lower_rooms(path: Path, module: str) -> None:
    assert breaches(path.read_text(), module, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dmsae_ray.sae.model", "from dmsae_ray.lm import load_tap"),  # same level
        ("dmsae_ray.sae.model", "from dmsae_ray import distill"),
        ("dmsae_ray.sae.model", "import dmsae_ray.distill.core as c"),
        ("dmsae_ray.distill.cycles", "from dmsae_ray.sae.trainer import SAETrainer"),  # past the face
        ("dmsae_ray.distill.cycles", "from dmsae_ray.sae import trainer"),
        ("dmsae_ray.distill.cycles", "import dmsae_ray.sae.trainer"),
        ("dmsae_ray.plan.plan", "import ray"),
        ("dmsae_ray.report.figures", "def f():\n    import mlflow"),
        ("dmsae_ray.distill.cycle", "def f():\n    import ray"),
        ("dmsae_ray.distill.cycle", "def f():\n    from ray.data import Dataset"),
        ("dmsae_ray.distill.cycle", "from ..sweep.grid import expand"),
        ("dmsae_ray.distill.cycle", "import importlib\nimportlib.import_module('transformers')"),
        ("dmsae_ray.lm.tap", "if TYPE_CHECKING:\n    import mlflow"),
        ("dmsae_ray.sweep.worker", "from dmsae_ray.tracking.journal import Journal"),
        ("dmsae_ray.config", "import torch"),
        ("dmsae_ray", "from dmsae_ray.config import Experiment"),
        ("dmsae_ray", "import torch"),
    ],
)
def test_the_rule_sees_a_breach(module: str, source: str) -> None:
    assert breaches(source, module, is_package=module == "dmsae_ray")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dmsae_ray.distill.cycle", "from dmsae_ray.sae import MatryoshkaSAE\nfrom .core import Core\nimport torch"),
        ("dmsae_ray.sweep.worker", "import ray\nfrom dmsae_ray.store import open_store"),
        ("dmsae_ray.lm.tap", "import transformers, arrayx"),
    ],
)
def test_the_rule_lets_pass_what_is_allowed(module: str, source: str) -> None:
    assert breaches(source, module) == []


FACES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


@pytest.mark.parametrize("room", FACES)
def test_a_face_says_the_same_to_types_and_at_run_time(room: str) -> None:
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text())
    typed = {
        (str(node.module), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"dmsae_ray.{room}.")
        for alias in node.names
    }
    face = importlib.import_module(f"dmsae_ray.{room}")
    assert {name for _, name in typed} == set(face.__all__)
    for module, name in typed:
        assert getattr(face, name) is getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("room", FACES)
def test_no_module_has_the_name_of_what_its_room_exports(room: str) -> None:
    """Importing the module would put it in the place of what is exported, which is imported on first use."""
    assert modules_of(room) & set(importlib.import_module(f"dmsae_ray.{room}").__all__) == set()


def test_a_face_refuses_what_it_does_not_have() -> None:
    with pytest.raises(AttributeError, match=r"^module 'dmsae_ray.sae' has no attribute 'nothing'$"):
        importlib.import_module("dmsae_ray.sae").nothing  # noqa: B018


def python(code: str) -> str:
    """Run code in a fresh interpreter, away from the repository's own folder; its output."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_importing_the_package_loads_nothing_heavy_and_takes_no_time() -> None:
    heavy = ["torch", "ray", "mlflow", "transformers", "numpy", "pydantic", "yaml", "scipy", "matplotlib"]
    code = f"import sys, dmsae_ray; print([m for m in {heavy} if m in sys.modules])"
    assert python(code).strip() == "[]"
    took = []
    for _ in range(3):
        start = perf_counter()
        python("import dmsae_ray")
        took.append(perf_counter() - start)
    assert min(took) < 0.3


def test_a_config_and_a_plan_need_neither_torch_nor_ray() -> None:
    code = (
        "import sys\n"
        "from dmsae_ray.config import parse_experiment\n"
        "from dmsae_ray.plan import plan_experiment, plan_text\n"
        "plan_text(plan_experiment(parse_experiment({'name': 'test'})))\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'transformers') if m in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_the_command_line_starts_without_torch_and_ray() -> None:
    code = "import sys, dmsae_ray.cli; print([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
    assert python(code).strip() == "[]"


# --- the repository ---


def tracked() -> list[Path]:
    """Files under version control; the test is skipped where this is no git checkout, as in an unpacked archive."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    # A checkout may belong to another user, as where CI mounts it into a container.
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
    found = subprocess.run(git, capture_output=True, text=True, check=True)
    assert found.stdout
    return [path for name in found.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_the_top_level_holds_only_what_belongs_there() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert top - TOP_LEVEL == set()
    assert {"LICENSE", "pyproject.toml", "cluster.yaml", "dmsae_ray", "sweeps", "tests", ".ci"} <= top


ABSOLUTE_PATH = re.compile(r"(?<![\w.~$}>:/*\\-])/(\w[\w.-]*)/[\w.-]+")
EVERYWHERE = {
    "api",
    "aws",
    "bin",
    "caches",
    "dev",
    "etc",
    "latest",
    "lib",
    "no",
    "nowhere",
    "proc",
    "sys",
    "tmp",
    "usr",
    "var",
}
"""First parts of paths that any machine (or any web server) has, or that none has, on purpose."""


def machine_paths(text: str) -> list[str]:
    """Absolute paths that only exist where they were written; those of AWS's images are everyone's."""
    found = [match for match in ABSOLUTE_PATH.finditer(text) if match[1] not in EVERYWHERE]
    return [match[0] for match in found if match[0] not in ("/home/ubuntu", "/opt/dlami")]


def text_files() -> list[Path]:
    endings = {".py", ".md", ".yaml", ".yml", ".toml", ".json", ".txt", ".sh", ".cfg", ""}
    return [path for path in tracked() if path.suffix in endings and not path.name.startswith("LICENSE")]


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    found = []
    for path in text_files():
        if path == Path(__file__):
            continue
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}:{i}: {p}" for i, line in enumerate(lines, 1) for p in machine_paths(line)]
    assert found == []


@pytest.mark.parametrize(
    "text", ["/home/ann/x", "see /disk7/main/a.py", '"/srv/venv/bin"', "/root/.cache", "(/Users/b)"]
)
def test_the_search_for_paths_finds_them(text: str) -> None:
    assert machine_paths(text)


@pytest.mark.parametrize(
    "text",
    ["https://host/a/b", "/home/ubuntu/x", "a/opt/b", "~/a/x", "$HOME/a/b", "/tmp/x/y", "x / y / z", "s3://a/b/c"],
)
def test_the_search_for_paths_leaves_others_alone(text: str) -> None:
    assert machine_paths(text) == []


def test_no_large_or_built_file_is_tracked() -> None:
    large = [f"{p.relative_to(ROOT)} {p.stat().st_size}" for p in tracked() if p.stat().st_size > 4 * 2**20]
    assert large == [], "the shipped checkpoint may have 4 MB; nothing else comes near"
    built = re.compile(r"(__pycache__|\.pyc$|\.egg-info|/\.venv/|\.db$|mlruns|dmsae-runs)")
    assert [str(p) for p in tracked() if built.search(str(p.relative_to(ROOT)))] == []
