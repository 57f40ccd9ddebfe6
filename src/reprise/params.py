"""Typed parameters: a stage sees its own block of `pipelines/<paper>/params.yaml` and nothing else."""

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML, YAMLError

from reprise.errors import ReproError, unknown
from reprise.paths import PIPELINES, ROOT, papers


class Params(BaseModel):
    """Base of every stage's parameters: unknown keys are refused, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Params)


def parse(path: Path) -> dict[str, Any]:
    """A YAML file as a dictionary, numbers read as DVC reads them; a missing or broken one is a `ReproError`."""
    try:
        content = YAML(typ="safe").load(path.read_text())
    except FileNotFoundError:
        raise ReproError(f"{path} is missing") from None
    except YAMLError as error:
        raise ReproError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return content or {}


read = cache(parse)  # declarations do not change while a stage runs


def shared(key: str) -> Any:
    """A value of the root `params.yaml`, which all pipelines share."""
    return read(ROOT / "params.yaml")[key]


def of_paper(paper: str) -> dict[str, Any]:
    """The whole `params.yaml` of a paper."""
    if paper not in papers():
        raise unknown("paper", paper, papers())
    return read(PIPELINES / paper / "params.yaml")


def scales(paper: str) -> list[str]:
    """The scales that a paper declares."""
    return [key for key in of_paper(paper) if key != "variants"]


def section(paper: str, scale: str) -> dict[str, Any]:
    """The section of one scale."""
    if scale not in scales(paper):
        raise unknown(f"scale of {paper}", scale, scales(paper))
    return of_paper(paper)[scale]


def merge(base: dict, over: dict) -> dict:
    """`base` with `over` laid on top, nested dictionaries merged."""
    both = {k: merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in over.items()}
    return {**base, **both}


def block(paper: str, stage: str, scale: str, variant: str | None = None) -> dict[str, Any]:
    """`<scale>.<stage>`, overlaid with `<scale>.variants.<variant>`."""
    own = section(paper, scale)
    values = own.get(stage) or {}
    if variant is not None:
        variants = own.get("variants") or {}
        if variant not in variants:
            raise unknown(f"variant of {paper}", variant, variants)
        values = merge(values, variants[variant] or {})
    return values


def validate(cls: type[P], values: dict[str, Any], where: str) -> P:
    """`values` as `cls`.

    Raises:
        ReproError: names the parameter, the place and what was expected, with a suggestion for a misspelt key.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ReproError(f"{where}: {unknown('parameter', key, cls.model_fields)}") from None
        raise ReproError(f"{where}: parameter {key!r}: {first['msg']} (found: {first['input']!r})") from None
