import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from reprise import datasets
from reprise.errors import ReproError

CONTENT = b"twelve bytes"


@pytest.fixture
def entry(monkeypatch):
    entry = {"url": "http://127.0.0.1:9/file.txt", "sha256": hashlib.sha256(CONTENT).hexdigest(), "bytes": len(CONTENT), "licence": "", "citation": ""}
    monkeypatch.setattr(datasets, "registry", lambda paper: {"file.txt": entry})
    monkeypatch.delenv("REPRISE_MIRROR", raising=False)
    return entry


@pytest.fixture
def server():
    """A web server on this machine that serves what `server.content` says, `cut` bytes short."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = self.server.content
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    web = HTTPServer(("127.0.0.1", 0), Handler)
    web.content = CONTENT
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield web
    web.shutdown()


def test_from_its_url(entry, server, tmp_path):
    entry["url"] = f"http://127.0.0.1:{server.server_port}/file.txt"
    assert datasets.fetch("p", "file.txt", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(("content", "message"), [(b"other bytes!", "not the registered ones"), (CONTENT[:5], "cannot get|not the registered")])
def test_wrong_or_truncated_downloads_leave_nothing(entry, server, tmp_path, content, message):
    server.content = content
    entry["url"] = f"http://127.0.0.1:{server.server_port}/file.txt"
    with pytest.raises(ReproError, match=message):
        datasets.fetch("p", "file.txt", tmp_path)
    assert not (tmp_path / "file.txt").exists()


def test_the_mirror_is_asked_first(entry, tmp_path, monkeypatch):
    (tmp_path / "mirror/p").mkdir(parents=True)
    (tmp_path / "mirror/p/file.txt").write_bytes(CONTENT)
    monkeypatch.setenv("REPRISE_MIRROR", str(tmp_path / "mirror"))
    assert datasets.fetch("p", "file.txt", tmp_path / "out").read_bytes() == CONTENT
    (tmp_path / "mirror/p/file.txt").write_bytes(CONTENT[:5])
    with pytest.raises(ReproError, match="cut short"):
        datasets.fetch("p", "file.txt", tmp_path / "other")
    assert not (tmp_path / "other/file.txt").exists()


def test_without_network_the_message_says_what_to_do(entry, tmp_path):
    with pytest.raises(ReproError, match="Set REPRISE_MIRROR"):
        datasets.fetch("p", "file.txt", tmp_path)
    with pytest.raises(ReproError, match="did you mean 'file.txt'"):
        datasets.fetch("p", "file.tx", tmp_path)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:evil"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_cannot_write_outside(tmp_path, name, kind):
    archive = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("good", "1")
            file.writestr(name, "1")
    else:
        with tarfile.open(archive, "w") as file:
            file.addfile(tarfile.TarInfo("good"))
            file.addfile(tarfile.TarInfo(name))
    with pytest.raises(ReproError, match="outside the folder; nothing was unpacked"):
        datasets.unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_and_bombs_are_refused_and_honest_archives_unpacked(tmp_path):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "link.tar", "w") as file:
        file.addfile(link)
    with pytest.raises(ReproError, match="is a link"):
        datasets.unpack(tmp_path / "link.tar", tmp_path / "out")
    with tarfile.open(tmp_path / "good.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("a/b")
        member.size = 3
        file.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(ReproError, match="more than the 2 allowed"):
        datasets.unpack(tmp_path / "good.tar.gz", tmp_path / "out", largest=2)
    assert [p.read_bytes() for p in datasets.unpack(tmp_path / "good.tar.gz", tmp_path / "out")] == [b"abc"]
    (tmp_path / "no").write_text("text")
    with pytest.raises(ReproError, match="neither a zip nor a tar"):
        datasets.unpack(tmp_path / "no", tmp_path / "out")
