"""Every path of the project, by one convention (`data/<paper>/<scale>/...`, `reports/<paper>/<scale>/...`)."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # code and data of one checkout belong together
PIPELINES = ROOT / "pipelines"
REGISTRY = ROOT / "data" / "registry.yaml"

# The output folder of the four stages whose name is not that of their output.
FOLDER = {"download": "raw", "preprocess": "prepared", "train": "models", "evaluate": "results"}


def data(root: Path, paper: str, scale: str, kind: str, *parts: str) -> Path:
    """`data/<paper>/<scale>/<kind>/...`: kind is raw, prepared, models, results or the name of an extra stage."""
    return root.joinpath("data", paper, scale, kind, *parts)


def report(root: Path, paper: str, scale: str) -> Path:
    """`reports/<paper>/<scale>`: index.md, figures/ and metrics.json, all committed."""
    return root / "reports" / paper / scale


def private(root: Path, kind: str) -> Path:
    """`.reprise/<kind>`: what never enters a result (logs, locks, resume points, receipts), ignored by git."""
    path = root / ".reprise" / kind
    path.mkdir(parents=True, exist_ok=True)
    return path


def papers() -> list[str]:
    """The papers that have a pipeline, in name order."""
    return sorted(p.parent.name for p in PIPELINES.glob("*/dvc.yaml"))
