"""The command line as a person or a script meets it: what it says, in which form, and with which exit code."""

import json
import re
import shutil

import pytest

from reprise import cli, paths


def ask(*words, capsys):
    """Call `reprise` in this process; returns exit code, standard output, standard error."""
    try:
        args = cli.parser().parse_args(words)
        code = args.call(args)
    except SystemExit as left:
        code = left.code
    told = capsys.readouterr()
    return code, told.out, told.err


def test_help_teaches_every_command(capsys):
    code, whole, _ = ask("--help", capsys=capsys)
    assert code == 0 and "exit codes: 0" in whole
    for name in cli.COMMANDS:
        assert f"\n    {name}" in whole
        code, out, _ = ask(name, "--help", capsys=capsys)
        assert code == 0 and f"examples:\n  reprise {name}" in out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["staus"], "unknown command 'staus': did you mean 'status'?"),
        (["show", "smaltowers"], "unknown paper 'smaltowers': did you mean 'smalltowers'?"),
        (["show", "smalltowers", "--scale", "smal"], "unknown scale 'smal': did you mean 'small'?"),
        (["run", "--core=2"], "unknown option '--core': did you mean '--cores'?"),
        (["verify", "smalltower"], "did you mean 'smalltowers'?"),
        (["new", "My-Paper"], "'My-Paper' is not a paper's name"),
    ],
)
def test_a_misspelt_word_gets_the_nearest_one_and_exit_code_2(words, hint, capsys):
    code, out, err = ask(*words, capsys=capsys)
    assert code == 2 and hint in err and out == "" and "Traceback" not in err


def test_without_a_command_it_says_what_there_is(checkout):
    done = checkout.run("reprise.cli", check=False)
    assert done.returncode == 2 and "a first quarter of an hour" in done.stdout


def test_list_in_three_forms(capsys):
    assert "smalltowers" in ask("list", capsys=capsys)[1]
    assert ask("list", "-q", capsys=capsys)[1].split() == paths.papers()
    assert ask("-q", "list", capsys=capsys)[1].split() == paths.papers()
    rows = json.loads(ask("list", "--json", capsys=capsys)[1])
    assert [row["paper"] for row in rows] == paths.papers() and rows[0]["title"]


def test_show_has_claims_stages_data_and_results(capsys):
    _, out, _ = ask("show", "smalltowers", capsys=capsys)
    for part in ("claims at scale small", "train@small-mtl", "data that some scale downloads", "results: reports/smalltowers/small/index.md"):
        assert part in out
    told = json.loads(ask("show", "smalltowers", "--json", capsys=capsys)[1])
    assert {"title", "claims", "stages", "data", "metrics", "scale"} <= told.keys()
    assert {row["verdict"] for row in told["claims"]} <= set(cli.MARK)
    assert len(ask("show", "smalltowers", "-q", capsys=capsys)[1].splitlines()) == len(told["claims"])


def test_a_paper_not_run_at_a_scale_says_how(capsys):
    code, out, _ = ask("show", "smalltowers", "--scale", "paper", capsys=capsys)
    assert code == 0 and "not run yet at scale paper: reprise run smalltowers --scale paper" in out


def test_status_in_three_forms_and_its_exit_code(reproduced, tmp_path):
    checkout = reproduced.copy(tmp_path / "checkout")
    shown = checkout.run("reprise.cli", "status").stdout
    assert "none" in shown and re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d", shown), "the last run has its time"
    assert checkout.run("reprise.cli", "status", "-q").stdout == ""
    model = checkout.root / "src/reprise/papers/toy/model.py"
    model.write_text(model.read_text() + "# edited\n")
    assert checkout.run("reprise.cli", "status", "-q", check=False).stdout == "toy\n"
    done = checkout.run("reprise.cli", "status", "--json", check=False)
    assert done.returncode == 1 and "train@small-gradient" in json.loads(done.stdout)[0]["stale"]


def test_check_says_which_claim_stopped_holding(reproduced, tmp_path):
    checkout = reproduced.copy(tmp_path / "checkout")
    assert "as declared" in checkout.run("reprise.cli", "check").stdout
    assert checkout.run("reprise.cli", "check", "-q").stdout == ""
    declared = checkout.root / "pipelines/toy/claims.yaml"
    declared.write_text(declared.read_text().replace(">= 5", ">= 500"))
    done = checkout.run("reprise.cli", "check", "--json", check=False)
    assert done.returncode == 1 and "heavy_ball_is_faster" in json.loads(done.stdout)[0]


def test_run_brings_up_to_date_quietly_and_refuses_a_scale_that_is_not_declared(checkout):
    done = checkout.run("reprise.cli", "run", "toy", "--scale", "paper", check=False)
    assert done.returncode == 1 and "not among `scales:` in params.yaml" in done.stderr
    done = checkout.run("reprise.cli", "run", "toy", "--cores", "1", "-q")
    assert done.stdout == done.stderr == ""
    assert "8 stages" in (checkout.root / ".reprise/logs/run.log").read_text() or (checkout.root / "reports/toy/small/index.md").exists()
    assert checkout.run("reprise.cli", "status", "toy").returncode == 0


@pytest.mark.slow
def test_run_at_one_of_several_scales_runs_that_one(checkout):
    shared = checkout.root / "params.yaml"
    shared.write_text(shared.read_text().replace("scales: [small]", "scales: [small, paper]").replace("paper: fast", "paper: portable"))
    checkout.run("reprise.cli", "run", "toy", "--scale", "small")
    assert (checkout.root / "reports/toy/small/index.md").exists() and not (checkout.root / "reports/toy/paper").exists()


def test_run_says_where_to_look_when_a_stage_fails(checkout):
    source = checkout.root / "src/reprise/papers/toy/evaluate.py"
    source.write_text(source.read_text().replace("    rows, metrics = [], {}\n", "    raise ValueError('broken')\n"))
    done = checkout.run("reprise.cli", "run", "toy", "--cores", "1", "-q", check=False)
    assert done.returncode == 1 and ".reprise/logs/run.log" in done.stderr
    assert "broken" in (checkout.root / ".reprise/logs/run.log").read_text()


def test_report_writes_the_page_again(reproduced, tmp_path):
    checkout = reproduced.copy(tmp_path / "checkout")
    before = checkout.outputs()
    (checkout.root / "reports/toy/small/index.md").unlink()
    assert checkout.run("reprise.cli", "report", "toy", "-q").stdout == "reports/toy/small/index.md\n"
    assert checkout.outputs() == before


def test_time_notes_what_each_stage_took_when_it_last_ran(checkout):
    done = checkout.run("reprise.cli", "time", "toy", check=False)
    assert done.returncode == 1 and "download@small has not been timed in this checkout: reprise verify toy" in done.stderr
    checkout.run("reprise.cli", "run", "toy", "-q")
    done = checkout.run("reprise.cli", "time", "toy", "--json")
    assert [row["stage"] for row in json.loads(done.stdout)] == ["download", "preprocess", "train", "evaluate", "report"]
    assert all(row["seconds"] > 0 for row in json.loads(done.stdout))
    record = (checkout.root / "pipelines/toy/times.yaml").read_text()
    assert "kind: CPU" in record and "train:" in record
    done = checkout.run("reprise.cli", "time", "toy", "--scale", "paper", check=False)
    assert done.returncode == 1 and "add it to `scales:`" in done.stderr


def test_new_refuses_what_exists(checkout):
    done = checkout.run("reprise.cli", "new", "toy", check=False)
    assert done.returncode == 1 and "exists already" in done.stderr
    assert checkout.run("reprise.cli", "new", "other", "-q").stdout == "other\n"


@pytest.mark.slow
def test_from_new_to_green_as_a_newcomer_would(checkout):
    """A paper from the template: reproduced by plain DVC, its claims hold, its own tests and the guards pass, nothing else is touched."""
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(paths.ROOT / name, checkout.root / name)
    (checkout.root / "tests/workbench").mkdir(parents=True)
    for name in ("conftest.py", "workbench/test_guards.py"):
        shutil.copy(paths.ROOT / "tests" / name, checkout.root / "tests" / name)
    workbench = {f: f.read_bytes() for f in (checkout.root / "src/reprise").glob("*.py")}
    checkout.run("reprise.cli", "new", "mypaper")
    checkout.run("dvc", "repro", "-q", "pipelines/mypaper/dvc.yaml")
    assert "✔1" in checkout.run("reprise.cli", "list").stdout
    checkout.run("reprise.cli", "check")
    done = checkout.run("python", "-m", "pytest", "-m", "not slow", "tests/papers/mypaper", "tests/workbench/test_guards.py")
    assert " passed" in done.stdout and "failed" not in done.stdout
    assert {f: f.read_bytes() for f in (checkout.root / "src/reprise").glob("*.py")} == workbench
    checkout.run("dvc", "repro", "-q")  # the scoreboard and the site, with it in them
    assert "mypaper" in (checkout.root / "reports/site/index.html").read_text()
