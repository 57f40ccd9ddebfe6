"""Nothing in the documentation may rot: every command parses, those that can run are run, every link and file exists."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from reprise import cli, closure, paths

DOCS = [paths.ROOT / "README.md", *sorted((paths.ROOT / "docs").glob("*.md"))]
NAMES = lambda path: f"{path.parent.name}/{path.name}"  # noqa: E731
# What needs more than a checkout and a minute: a name for the reason, and where it is tested instead.
ELSEWHERE = {
    r"^make (setup|reproduce|test|ui)": "sets up an environment, or serves until stopped; the commands behind it: test_engine, test_tracking",
    r"profiles/slurm": "needs a cluster: tests/cluster",
    r"^dvc remote add|^dvc push|^dvc pull|MLFLOW_TRACKING_URI=": "needs a remote or a server: test_remotes, test_tracking",
    r"^reprise why-different": "needs golden hashes, which belong to the whole repository: test_verify",
}


def commands(path: Path) -> list[str]:
    """The lines of a page's indented blocks, without comments."""
    blocks = re.findall(r"(?:(?<=\n\n)|^)((?:    \S.*\n)+)", re.sub(r"```.*?```", "", path.read_text(), flags=re.S))
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split(";")]


def mentioned(path: Path) -> list[str]:
    """Commands in running text that are whole ones: in backticks, without placeholders."""
    return [text for text in re.findall(r"`([^`\n]+)`", path.read_text()) if re.match(r"(reprise|make|python -m|dvc) \S", text) and not re.search(r"[<…]|COMMAND", text)]


def test_there_are_commands_to_check():
    assert sum(len(commands(path)) for path in DOCS) > 40


@pytest.mark.parametrize("path", DOCS, ids=NAMES)
def test_every_command_is_one(path):
    targets = set(re.findall(r"^([a-z-]+):.*## ", (paths.ROOT / "Makefile").read_text(), flags=re.M))
    for text in commands(path) + mentioned(path):
        words = [word for word in shlex.split(text.replace("mypaper", "smalltowers") if "reprise new" not in text else text) if not re.match(r"[A-Z_]+=", word)]
        match words:
            case ["reprise", *rest]:
                arguments = cli.parser().parse_args(rest)  # exits with a message where it is not understood
                assert isinstance(arguments, argparse.Namespace)
            case ["make", *wanted]:
                assert set(wanted) <= targets, text
            case ["python", "-m", module, *_]:
                assert module == "pytest" or closure.file_of(module), text
            case ["dvc", command, *_]:
                assert command in {"repro", "pull", "push", "status", "remote", "metrics", "plots", "gc", "commit"}, text
            case [("git" | "pip" | "."), *_]:
                pass
            case _:
                raise AssertionError(f"{path.name}: {text!r} is no known command")


@pytest.mark.parametrize("path", DOCS, ids=NAMES)
def test_every_link_and_every_file_named_exists(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (path.parent / target).exists(), f"{path.name} links to {target}"
    for name in re.findall(r"`((?:src|docs|pipelines|profiles|tests|data)/[\w/.-]+)`", text):
        if "mypaper" not in name:
            assert (paths.ROOT / name).exists() or name == "data/", f"{path.name} names {name}"


def test_every_page_is_in_the_table_of_contents():
    contents = (paths.ROOT / "docs/README.md").read_text()
    assert [page.name for page in DOCS[1:] if page.name != "README.md" and f"({page.name})" not in contents] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCS[1:], ids=NAMES)
def test_commands_run_as_written(path, reproduced, tmp_path):
    """In a checkout with one paper, which stands in for the one that the page names."""
    checkout = reproduced.copy(tmp_path / "checkout")
    checkout.run("git", "add", "-A")
    checkout.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "all")
    for text in commands(path):
        if any(re.search(pattern, text) for pattern in ELSEWHERE):
            continue
        words = re.sub(r"\bsmalltowers\b", "toy", text)
        done = checkout.run("bash", "-c", words.replace("reprise ", "python -m reprise.cli ") if words.startswith("reprise ") else words, check=False)
        assert done.returncode == 0, f"{path.name}: {text}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
