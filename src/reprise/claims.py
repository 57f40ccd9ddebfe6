"""A paper's claims as a machine checks them: `pipelines/<paper>/claims.yaml` against `metrics.json`.

Expressions are a small language over metric names: numbers, dotted names, + - * /, comparisons, and, or, not, min, max,
abs. They are parsed by Python and evaluated here, node by node; nothing else is possible in them.
"""

import ast
import json
import operator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reprise import params, paths
from reprise.errors import ReproError, unknown

Verdict = Literal["reproduced", "not reproduced", "not measured at this scale"]

OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.USub: operator.neg, ast.Not: operator.not_,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
FUNCTIONS = {"min": min, "max": max, "abs": abs}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Difference(_Model):
    """One point in which the reproduction differs from the paper, and why."""

    what: str
    why: str


class Claim(_Model):
    """One claim: what the paper says, where, what we measure and when that counts as reproduced."""

    id: str
    says: str
    where: str
    paper: str | float
    ours: str | None = Field(None, description="expression: the measured figure")
    spread: str | None = Field(None, description="expression: its spread over seeds")
    seeds: int | None = None
    margin: str = Field("", description="the condition in words")
    holds: dict[str, str] = Field({}, description="scale -> condition over metrics.json")
    not_reproduced: dict[str, str] = Field({}, description="scale -> what was tried and seen where the condition fails")


class Declaration(_Model):
    """A whole claims.yaml."""

    title: str
    authors: str
    link: str
    summary: str
    differs: list[Difference] = []
    claims: list[Claim]


class Outcome(_Model):
    """A claim at one scale: the verdict and the measured figures, None where not measured."""

    claim: Claim
    verdict: Verdict
    ours: float | None
    spread: float | None


def declaration(paper: str) -> Declaration:
    """The claims of a paper, validated.

    Raises:
        ReproError: an entry is missing, unknown or of the wrong type, or an id stands twice.
    """
    path = paths.PIPELINES / paper / "claims.yaml"
    try:
        declared = Declaration.model_validate(params.read(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise ReproError(f"{path.relative_to(paths.ROOT)}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    ids = [claim.id for claim in declared.claims]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise ReproError(f"{path.relative_to(paths.ROOT)}: claim id {twice[0]!r} stands twice")
    return declared


def metrics(paper: str, scale: str, root: Path = paths.ROOT) -> dict[str, float] | None:
    """The measured numbers of a paper at a scale, None where it was not run."""
    path = paths.report(root, paper, scale) / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else None


def evaluate(expression: str, values: dict[str, float]) -> Any:
    """The value of `expression` over the metrics `values`.

    >>> evaluate("a.mean - b.mean >= 0.1 and min(a.mean, 1) > 0", {"a.mean": 0.5, "b.mean": 0.3})
    True

    Raises:
        ReproError: an unknown metric (with the nearest known one), or anything but arithmetic and comparisons.
    """

    def refuse(why: str) -> ReproError:
        return ReproError(f"claim expression {expression!r}: {why}")

    def name(node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{name(node.value)}.{node.attr}"
        raise refuse(f"{ast.unparse(node)!r} is not a metric name")

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() as constant):
                return constant
            case ast.Name() | ast.Attribute():
                if name(node) not in values:
                    raise refuse(str(unknown("metric", name(node), values)))
                return values[name(node)]
            case ast.BinOp(left, op, right) if type(op) in OPERATORS:
                try:
                    return OPERATORS[type(op)](value(left), value(right))
                except ZeroDivisionError:
                    raise refuse("division by zero") from None
            case ast.UnaryOp(op, operand) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(operand))
            case ast.BoolOp(op, operands):
                parts = [value(operand) for operand in operands]  # all of them: a misspelt name must not hide
                return all(parts) if isinstance(op, ast.And) else any(parts)
            case ast.Compare(left, ops, rights) if all(type(op) in OPERATORS for op in ops):
                parts = [value(part) for part in (left, *rights)]
                return all(OPERATORS[type(op)](a, b) for op, a, b in zip(ops, parts, parts[1:]))
            case ast.Call(ast.Name(function), arguments, []) if function in FUNCTIONS:
                return FUNCTIONS[function](*map(value, arguments))
        raise refuse(f"{ast.unparse(node)!r} is not allowed (numbers, metric names, + - * /, comparisons, and, or, not, min, max, abs)")

    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise refuse(f"syntax error at character {error.offset}") from None
    return value(tree.body)


def outcomes(paper: str, scale: str, root: Path = paths.ROOT) -> list[Outcome]:
    """The verdict on each claim of a paper at a scale."""
    values = metrics(paper, scale, root)
    result = []
    for claim in declaration(paper).claims:
        if values is None or scale not in claim.holds:
            result.append(Outcome(claim=claim, verdict="not measured at this scale", ours=None, spread=None))
            continue
        holds = evaluate(claim.holds[scale], values)
        if not isinstance(holds, bool):
            raise ReproError(f"claim {claim.id!r} of {paper}: {claim.holds[scale]!r} is {holds}, not a condition")
        figures = {key: float(evaluate(text, values)) if (text := getattr(claim, key)) else None for key in ("ours", "spread")}
        result.append(Outcome(claim=claim, verdict="reproduced" if holds else "not reproduced", **figures))
    return result


def check(paper: str, scale: str, root: Path = paths.ROOT) -> list[str]:
    """What is wrong with a paper's claims at a scale: one line for each that stopped holding, or holds against its note."""
    lines = []
    for outcome in outcomes(paper, scale, root):
        claim = outcome.claim
        noted = scale in claim.not_reproduced
        if outcome.verdict == "not reproduced" and not noted:
            lines.append(f"{paper}: claim {claim.id!r} no longer holds at scale {scale}: {claim.holds[scale]} (ours: {outcome.ours})")
        if outcome.verdict == "reproduced" and noted:
            lines.append(f"{paper}: claim {claim.id!r} holds at scale {scale}, but claims.yaml notes it as not reproduced: remove the note")
    return lines
