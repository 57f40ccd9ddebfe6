"""A stage's code dependencies, computed: the repository modules that its module imports, directly or not.

`python -m reprise.closure` lists what `dvc.yaml` files declare too much or too little; `--write` puts it right. Nothing
is then ever stale, and nothing reruns for nothing. An `__init__` that holds only a docstring cannot change a result and
is left out; `requirements.lock` can, and is in.
"""

import argparse
import ast
import importlib
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

from reprise import drawing, paths
from reprise.errors import ReproError
from reprise.stage import fail_clearly

SOURCE = paths.ROOT / "src"
LAUNCHER = "reprise.stage"
ALWAYS = ["requirements.lock"]


def file_of(module: str) -> Path | None:
    """The source file of a repository module, None for a library's."""
    base = SOURCE.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


@cache
def imports(module: str) -> frozenset[str]:
    """The repository modules that `module` imports, anywhere in its source, with the packages on the way."""
    path = file_of(module)
    if path is None:
        raise ReproError(f"module {module} does not exist: a dvc.yaml declares a stage that has no code")
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])]) if node.level else node.module
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            found |= {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
    return frozenset(name for name in found if name.startswith("reprise") and file_of(name))


def closure(module: str) -> set[str]:
    """All repository modules that importing `module` loads."""
    reached, left = set(), [module, LAUNCHER]
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += imports(name)
    return reached


def _only_docstring(path: Path) -> bool:
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in ast.parse(path.read_text()).body)


def sources(modules: set[str]) -> list[str]:
    """Their files, relative to the root and sorted, without packages that are only a docstring."""
    files = (file_of(name) for name in modules)
    return sorted(str(f.relative_to(paths.ROOT)) for f in files if f.name != "__init__.py" or not _only_docstring(f))


def code_deps(paper: str, stage: str) -> list[str]:
    """The files, relative to the root, that a stage of a paper depends on as code."""
    package = f"reprise.papers.{paper}"
    module = f"{package}.{stage}" if file_of(f"{package}.{stage}") else f"{package}.data"
    return ALWAYS + sources(closure(module))


def is_code(dep: object) -> bool:
    """Whether an entry of `deps` is a code dependency, which this module owns."""
    return isinstance(dep, str) and (dep.startswith("src/") or dep in ALWAYS)


def file_and_deps(paper: str | None) -> tuple[Path, Callable[[str], list[str]], Callable[[object], bool]]:
    """A dvc.yaml, what each of its stages has to depend on, and which entries of `deps` that concerns.

    A stage of the root one (paper None) is the module `reprise.<stage>`, whose `inputs()` says what it reads.
    """
    if paper:
        return paths.PIPELINES / paper / "dvc.yaml", lambda stage: code_deps(paper, stage), is_code

    def deps(stage: str) -> list[str]:
        module = f"reprise.{stage}"
        return ALWAYS + sources(closure(module)) + importlib.import_module(module).inputs()

    return paths.ROOT / "dvc.yaml", deps, lambda dep: True


def differences(paper: str | None) -> list[str]:
    """One line for each stage whose declared dependencies are not what they have to be."""
    path, wanted_by, concerns = file_and_deps(paper)
    lines = []
    if not paper and (not drawing.KEPT.exists() or json.loads(drawing.KEPT.read_text()) != drawing.declared()):
        lines.append(f"{drawing.KEPT.relative_to(paths.ROOT)} is not what the dvc.yaml files declare: run `python -m reprise.closure --write`")
    for name, stage in YAML(typ="safe").load(path.read_text())["stages"].items():
        wanted, has = set(wanted_by(name)), set(filter(concerns, stage.get("deps") or []))
        if wanted != has:
            lines.append(f"{path.relative_to(paths.ROOT)}: {name}: missing {sorted(wanted - has)}, superfluous {sorted(has - wanted)}: run `python -m reprise.closure --write`")
    return lines


def write(paper: str | None) -> None:
    """Rewrite those dependencies in a dvc.yaml; comments and everything else stay. With the root one, `pipelines/stages.json`."""
    if not paper:
        drawing.KEPT.write_text(json.dumps(drawing.declared(), indent=1) + "\n")
    path, wanted_by, concerns = file_and_deps(paper)
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(path.read_text())
    for name, stage in document["stages"].items():
        deps = wanted_by(name) + [dep for dep in stage.get("deps") or [] if not concerns(dep)]
        if "deps" in stage:
            stage["deps"] = deps
        else:
            stage.insert(list(stage).index("cmd") + 1, "deps", deps)
    with path.open("w") as file:
        yaml.dump(document, file)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m reprise.closure", description=__doc__.splitlines()[0])
    parser.add_argument("papers", nargs="*", help="default: all")
    parser.add_argument("--write", action="store_true", help="put dvc.yaml right instead of complaining")
    args = parser.parse_args()
    wrong = []
    for paper in [*(args.papers or paths.papers()), None]:  # the root one shows every paper
        if args.write:
            write(paper)
        wrong += differences(paper)
    print("\n".join(wrong) or "all code dependencies are as declared", file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(fail_clearly(lambda: sys.exit(main())))
