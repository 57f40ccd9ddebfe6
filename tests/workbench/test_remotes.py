"""Results travel: push from one checkout, pull into a fresh clone, by folder and by a real SSH server on this machine."""

import getpass
import shutil
import socket
import subprocess
import time

import pytest


def travels(reproduced, tmp_path, url, **options):
    """Push, clone, pull: every output arrives, and nothing has to run."""
    origin = reproduced.copy(tmp_path / "origin")
    for command in (["remote", "add", "-q", "-d", "ours", url], *(["remote", "modify", "-q", "ours", key, str(value)] for key, value in options.items())):
        origin.run("dvc", *command)
    origin.run("git", "add", "-A")
    origin.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "results")
    origin.run("dvc", "push", "-q")
    clone = type(origin)(tmp_path / "clone")
    origin.run("git", "clone", "-q", str(origin.root), str(clone.root))
    clone.run("dvc", "pull", "-q", "pipelines/toy/dvc.yaml")
    assert clone.outputs() == reproduced.outputs()
    assert "up to date" in clone.run("dvc", "status", "pipelines/toy/dvc.yaml").stdout
    assert clone.run("reprise.cli", "status").returncode == 0


def test_through_a_folder(reproduced, tmp_path):
    travels(reproduced, tmp_path, str(tmp_path / "remote"))


@pytest.mark.slow
def test_through_ssh(reproduced, tmp_path):
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if not sshd:
        pytest.skip("sshd is not installed")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    shutil.copy(tmp_path / "client.pub", tmp_path / "authorized")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"Port": port, "ListenAddress": "127.0.0.1", "HostKey": tmp_path / "host", "AuthorizedKeysFile": tmp_path / "authorized", "StrictModes": "no", "PidFile": "none", "UsePAM": "no", "Subsystem": "sftp internal-sftp"}
    subprocess.run(["mkdir", "-p", "/run/sshd"], check=False)
    server = subprocess.Popen([sshd, "-D", "-f", "/dev/null", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))])
    try:
        time.sleep(1)
        assert server.poll() is None, "sshd did not start"
        travels(reproduced, tmp_path, f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/remote", keyfile=tmp_path / "client", allow_agent="false")
    finally:
        server.terminate()
        server.wait()
