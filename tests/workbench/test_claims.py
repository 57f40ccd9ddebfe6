import pytest

from reprise.claims import Claim, Declaration, evaluate
from reprise.errors import ReproError

VALUES = {"a.mean": 0.5, "b.mean": 0.25, "n": 4}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a.mean", 0.5),
        ("a.mean - b.mean * 2", 0.0),
        ("-a.mean / n", -0.125),
        ("0.2 < b.mean <= 0.25", True),
        ("a.mean > 1 or n == 4 and not n != 4", True),
        ("min(a.mean, b.mean, 1)", 0.25),
        ("abs(b.mean - a.mean)", 0.25),
    ],
)
def test_expressions(expression, expected):
    assert evaluate(expression, VALUES) == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a.meen > 0", "did you mean 'a.mean'"),
        ("n > 0 or wrong > 0", "unknown metric 'wrong'"),  # not hidden by the first half
        ("__import__('os')", "not allowed"),
        ("a.mean.__class__()", "not allowed"),
        ("[n][0]", "not allowed"),
        ("n if n else n", "not allowed"),
        ("'text'", "not allowed"),
        ("n **9", "not allowed"),
        ("max(n, key=n)", "not allowed"),
        ("n >", "syntax error"),
        ("n / 0", "division by zero"),
    ],
)
def test_everything_else_is_refused_with_a_reason(expression, message):
    with pytest.raises(ReproError, match=message.replace("(", r"\(")):
        evaluate(expression, VALUES)


def test_a_declaration_refuses_unknown_keys():
    with pytest.raises(ValueError, match="hold"):
        Declaration.model_validate({"title": "", "authors": "", "link": "", "summary": "", "claims": [{"id": "x", "says": "", "where": "", "paper": "", "hold": {}}]})


def test_verdicts_and_the_check(checkout):
    (checkout.root / "reports/toy/small").mkdir(parents=True)
    metrics = checkout.root / "reports/toy/small/metrics.json"
    metrics.write_text('{"gradient.log10_loss.mean": 0.0, "gradient.log10_loss.se": 0.1, "heavy_ball.log10_loss.mean": -1.0, "heavy_ball.log10_loss.se": 0.1}')
    fails = checkout.run("reprise.cli", "check", check=False)
    assert fails.returncode == 1 and "heavy_ball_is_faster' no longer holds" in fails.stdout
    claims = checkout.root / "pipelines/toy/claims.yaml"
    claims.write_text(claims.read_text() + "    not_reproduced:\n      small: tried 100 steps\n")
    assert checkout.run("reprise.cli", "check").returncode == 0
    metrics.write_text(metrics.read_text().replace("-1.0", "-9.0"))
    assert "remove the note" in checkout.run("reprise.cli", "check", check=False).stdout


def test_a_claim_that_never_mentions_a_scale_is_not_measured_there(pristine):
    claim = Claim(id="x", says="", where="", paper=1.0)
    assert claim.holds == {}
