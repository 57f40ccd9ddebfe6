"""`reprise verify` and `reprise status`: green on what was made here, red on anything else."""

import re


def committed(reproduced, tmp_path):
    checkout = reproduced.copy(tmp_path / "checkout")
    checkout.run("git", "add", "-A")
    checkout.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "results")
    return checkout


def test_verify_rebuilds_and_compares_every_output(reproduced, tmp_path):
    done = committed(reproduced, tmp_path).run("reprise.cli", "verify", "toy")
    assert "8 outputs rebuilt and compared" in done.stdout and "0 deviate" in done.stdout


def test_verify_names_what_deviates(reproduced, tmp_path):
    checkout = reproduced.copy(tmp_path / "edited")
    lock = checkout.root / "pipelines/toy/dvc.lock"
    wrong = re.sub(r"(path: data/toy/small/results\n      hash: md5\n      md5: )\w{6}", r"\g<1>000000", lock.read_text())
    assert wrong != lock.read_text()
    lock.write_text(wrong)
    checkout.run("git", "add", "-A")
    checkout.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "a lock that is not true")
    done = checkout.run("reprise.cli", "--json", "verify", "toy", check=False)
    assert done.returncode == 1 and done.stdout.count('"output"') == 1 and '"output": "data/toy/small/results"' in done.stdout


def test_verify_rebuilds_a_scale_that_only_the_lock_knows(reproduced, tmp_path):
    checkout = reproduced.copy(tmp_path / "checkout")
    shared = checkout.root / "params.yaml"
    declared = shared.read_text()
    shared.write_text(declared.replace("scales: [small]", "scales: [paper]").replace("paper: fast", "paper: portable"))
    checkout.run("dvc", "repro", "-q", "pipelines/toy/dvc.yaml")
    shared.write_text(declared.replace("paper: fast", "paper: portable"))
    done = committed(checkout, tmp_path / "again").run("reprise.cli", "verify", "toy", "--scale", "paper")
    assert "8 outputs rebuilt and compared" in done.stdout and "0 deviate" in done.stdout


def test_verify_names_the_papers_whose_lock_lacks_the_scale(reproduced, tmp_path):
    done = committed(reproduced, tmp_path).run("reprise.cli", "verify", "toy", "--scale", "paper", check=False)
    assert done.returncode == 1 and done.stderr.strip() == "error: no results at scale 'paper' in the lock of toy to compare with (in those of: none)"


def test_status_says_stale_without_data(reproduced, tmp_path):
    checkout = committed(reproduced, tmp_path)
    clone = type(checkout)(tmp_path / "clone")
    checkout.run("git", "clone", "-q", str(checkout.root), str(clone.root))
    assert clone.run("reprise.cli", "status").returncode == 0
    model = clone.root / "src/reprise/papers/toy/model.py"
    model.write_text(model.read_text() + "# edited\n")
    done = clone.run("reprise.cli", "status", check=False)
    assert done.returncode == 1 and "train@small-gradient" in done.stdout.replace("\n", "")
