"""What every paper has to keep, looked at in the sources and declarations of all of them."""

import ast
from pathlib import Path

import pytest

from reprise import claims, closure, params, paths, stage

PAPERS = paths.papers()
SOURCES = sorted((paths.ROOT / "src/reprise").rglob("*.py"))


@pytest.mark.parametrize("paper", PAPERS)
def test_every_scale_loads_and_validates(paper):
    declared = params.parse(paths.PIPELINES / paper / "dvc.yaml")["stages"]
    assert {"small", "paper"} <= set(params.scales(paper))
    for scale in params.scales(paper):
        known = set(declared) | {"variants"}
        assert set(params.section(paper, scale)) <= known, f"{paper}: {scale} has parameters of no stage"
        for name, one in declared.items():
            cls = stage.params_class(stage.function(paper, name))
            variants = list(params.section(paper, scale)["variants"]) if "variant" in one.get("matrix", {}) else [None]
            for variant in variants:
                values = params.block(paper, name, scale, variant)
                if cls:
                    params.validate(cls, values, f"{paper}: {scale}.{name}")
                else:
                    assert not values, f"{paper}: {scale}.{name} has parameters, the stage takes none"


@pytest.mark.parametrize("paper", [*PAPERS, None])
def test_declared_code_dependencies_are_the_import_closure(paper):
    assert closure.differences(paper) == []


def test_a_missing_and_a_superfluous_dependency_are_named(checkout):
    path = checkout.root / "pipelines/toy/dvc.yaml"
    path.write_text(path.read_text().replace("      - src/reprise/papers/toy/model.py\n", "      - src/reprise/report.py\n", 1))
    done = checkout.run("reprise.closure", "toy", check=False)
    assert done.returncode == 1
    assert "missing ['src/reprise/papers/toy/model.py'], superfluous ['src/reprise/report.py']" in done.stderr


@pytest.mark.parametrize("paper", PAPERS)
def test_claims_are_well_formed_and_their_metrics_exist(paper):
    declared = claims.declaration(paper)
    assert declared.claims
    for scale in params.scales(paper):
        if claims.metrics(paper, scale) is not None:
            claims.outcomes(paper, scale)
    for claim in declared.claims:
        assert set(claim.holds) | set(claim.not_reproduced) <= set(params.scales(paper))
        assert set(claim.not_reproduced) <= set(claim.holds)


@pytest.mark.parametrize("paper", PAPERS)
def test_committed_results_carry_their_claims(paper):
    for scale in params.shared("scales"):
        assert claims.check(paper, scale) == []


@pytest.mark.parametrize("paper", PAPERS)
def test_each_stage_depends_on_its_own_parameters_and_on_seed_and_profile(paper):
    for name, one in params.parse(paths.PIPELINES / paper / "dvc.yaml")["stages"].items():
        keys = {key for item in one.get("params", []) for keys in item.values() for key in keys}
        assert "profile.${item.scale}" in keys, f"{paper}.{name}"
        if stage.params_class(stage.function(paper, name)):
            assert "${item.scale}." + name in keys, f"{paper}.{name} does not depend on its parameters"
        if "variant" in one.get("matrix", {}):
            assert "${item.scale}.variants.${item.variant}" in keys, f"{paper}.{name}"


def names_used(path: Path) -> set[str]:
    """Every dotted name that a source reads."""
    return {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Attribute, ast.Name))}


GLOBAL_STATE = {"torch.manual_seed", "torch.seed", "np.random.seed", "numpy.random.seed", "random.seed", "random.random", "np.random.rand", "np.random.randn", "np.random.normal", "np.random.choice", "np.random.permutation", "np.random.uniform", "np.random.randint"}
CLOCKS = {"time.time", "datetime.now", "datetime.datetime.now", "datetime.utcnow", "time.strftime", "socket.gethostname", "uuid.uuid4"}
UNSAFE = {"pickle.load", "pickle.loads", "torch.load", "torch.save", "joblib.load"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(paths.ROOT / "src/reprise")))
def test_no_global_generator_no_clock_no_pickle(path):
    assert not names_used(path) & (GLOBAL_STATE | CLOCKS | UNSAFE)


@pytest.mark.parametrize("path", [p for p in SOURCES if "papers" in p.parts or "kits" in p.parts], ids=lambda p: str(p.relative_to(paths.ROOT / "src/reprise")))
def test_papers_and_kits_stay_apart(path):
    parts = path.relative_to(paths.ROOT / "src").parts
    for node in ast.walk(ast.parse(path.read_text())):
        module = node.module if isinstance(node, ast.ImportFrom) else None
        for name in [module] if module else [a.name for a in node.names] if isinstance(node, ast.Import) else []:
            if name.startswith("reprise.papers."):
                assert "papers" in parts, f"{path}: a kit imports a paper"
                assert name.split(".")[2] == parts[2], f"{path}: a paper imports {name}"


def test_the_workbench_names_no_paper():
    for path in SOURCES:
        if "papers" not in path.parts and "kits" not in path.parts and "template" not in path.parts:
            tree = ast.parse(path.read_text())
            imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
            assert not any(name.startswith("reprise.papers.") for name in imported), path


def test_the_lock_pins_what_the_project_asks_for():
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    pinned = {Requirement(line).name.lower().replace("_", "-"): Requirement(line) for line in (paths.ROOT / "requirements.lock").read_text().split("\n") if line and not line.startswith("#")}
    for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        wanted = Requirement(text)
        name = wanted.name.lower().replace("_", "-")
        assert name in pinned, f"{name} is not in requirements.lock"
        assert wanted.specifier.contains(next(iter(pinned[name].specifier)).version), name
