"""The rules of the house: who imports what, what is installed, what is public, where links lead."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mmray

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mmray"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
PROSE = [*ROOT.glob("*.md"), *(ROOT / "cluster").glob("*.md"), *(ROOT / "configs").rglob("*.md")]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def imports(path: Path, *, at_import: bool) -> set[str]:
    """Modules a file imports: all of them, or those that are imported as soon as it is."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.add(child.module)
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def test_only_distributed_and_stages_import_ray():
    allowed = ("mmray.distributed", "mmray.stages")
    guilty = [
        name
        for name, path in MODULES.items()
        if not name.startswith(allowed)
        and any(each.split(".")[0] == "ray" for each in imports(path, at_import=False))
    ]
    assert not guilty


def test_no_module_imports_itself_by_way_of_others():
    """Also not by way of the packages above, whose __init__ runs first."""
    needs = {name: imports(path, at_import=True) & MODULES.keys() for name, path in MODULES.items()}
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join([*way[way.index(name) :], name])
        if name not in done:
            for each in sorted(needs[name] - {name}):
                # A package's __init__ that gathers its modules is no circle of theirs.
                if not (name.startswith(f"{each}.") or each == "mmray"):
                    follow(each, (*way, name))
            done.add(name)

    for name in MODULES:
        follow(name, ())


def test_import_is_light_and_quick():
    code = (
        "import sys, time; start = time.process_time(); import mmray; seconds = time.process_time() - start\n"
        "heavy = {'ray', 'torch', 'numpy', 'pandas', 'pyarrow', 'pydantic', 'yaml'} & set(sys.modules)\n"
        "print(seconds, *heavy)"
    )
    tries = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert not any(heavy for _, *heavy in tries)
    assert min(float(seconds) for seconds, *_ in tries) < 0.1


def test_the_public_face_is_complete_and_documented():
    for name in mmray.__all__:
        public = getattr(mmray, name)
        assert (inspect.getdoc(public) or "").strip(), f"{name} has no docstring"
    stages = {path.stem for path in (PACKAGE / "stages").glob("*.py")}
    public = {name for name in stages if hasattr(importlib.import_module(f"mmray.stages.{name}"), name)}
    assert public - {"__init__", "submit", "inspect", "demo"} <= set(mmray.__all__), (
        "a stage is missing in mmray.__all__"
    )
    assert set(mmray.__all__) <= set(dir(mmray))
    with pytest.raises(AttributeError, match="no attribute 'extrakt'"):
        mmray.extrakt  # noqa: B018
    # A type checker sees the same names as a running program.
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [each for each in tree.body if isinstance(each, ast.If)]
    typed = {alias.name for each in block.body if isinstance(each, ast.ImportFrom) for alias in each.names}
    assert typed == set(mmray.__all__)
    assert (PACKAGE / "py.typed").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """The names in the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in TRACKED:  # a build leaves files behind, so it has a copy
        if name.startswith(("mmray/", "pyproject", "README", "LICENSE", "tests/config", "pipelines/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).exists():
                (source / name).write_bytes((ROOT / name).read_bytes())
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built).namelist()


def test_only_mmray_is_installed_and_all_of_it(wheel):
    inside = {name for name in wheel if not name.startswith("mmray-")}
    assert {name.split("/")[0] for name in inside} == {"mmray"}
    packaged = (".py", ".yaml", ".html", "py.typed")
    assert {name for name in TRACKED if name.startswith("mmray/") and name.endswith(packaged)} <= inside


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        assert not path or (page.parent / path).exists(), f"{target} is not there"
        assert path or not anchor or anchor in headings, f"no heading #{anchor}"


def test_files_named_in_prose_are_there():
    """Paths in backquotes that start with a folder of the tree."""
    folders = ("mmray/", "tests/", "configs/", "cluster/", "pipelines/", ".ci/")
    for page in PROSE:
        for path in re.findall(r"`([\w./\-]+)`", page.read_text(encoding="utf-8")):
            if path.startswith(folders):
                assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_files_stay_small():
    long = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: lines for name, lines in long.items() if lines > 450}


def test_names_of_machines_are_in_no_file():
    """Folders of the machines this was written on, and hosts that only they reach."""
    patterns = re.compile(r"/work/|/tmp/lead|/opt/pypi|\bissue #?\d+\b", re.IGNORECASE)
    for name in TRACKED:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".sh", ".html", "") and path.is_file():
            if path == Path(__file__):
                continue
            found = patterns.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{name}: {found and found[0]}"
