"""Downloads by name and checksum, from `data/registry.yaml`, through pooch; and archives unpacked with suspicion.

`REPRISE_MIRROR`, a folder or URL laid out as `<paper>/<file>`, is asked first: it serves machines without internet.
"""

import os
import shutil
import stat
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pooch
import requests

from reprise import params
from reprise.errors import ReproError, unknown
from reprise.paths import REGISTRY

RETRIES = 3
LARGEST = 16 << 30  # bytes that an archive may unpack to


def registry(paper: str) -> dict[str, dict]:
    """The files of a paper: name -> url, sha256, bytes, licence, citation."""
    return params.read(REGISTRY).get(paper) or {}


def fetch(paper: str, file: str, folder: Path) -> Path:
    """Bring `file` into `folder`, from the mirror if it has it, else from its source; only a verified file appears.

    Raises:
        ReproError: the file is not in the registry, cannot be had, or its bytes are not the registered ones.
    """
    if file not in registry(paper):
        raise unknown(f"file of {paper}", file, registry(paper))
    entry = registry(paper)[file]
    target = folder / file
    target.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    mirror = os.environ.get("REPRISE_MIRROR", "").rstrip("/")
    if mirror and "://" not in mirror:
        source = Path(mirror) / paper / file
        if source.is_file():
            shutil.copyfile(source, target)
            _verify(target, entry, str(source))
            target.chmod(0o644)
            return target
        reasons.append(f"{source} does not exist")
    for url in [f"{mirror}/{paper}/{file}"] * ("://" in mirror) + [entry["url"]]:
        downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
        try:
            pooch.retrieve(url, f"sha256:{entry['sha256']}", fname=file, path=folder, downloader=_Retrying(downloader))
            return target
        except ValueError:
            raise ReproError(f"{url}: the bytes are not the registered ones (sha256 {entry['sha256'][:12]}…, {entry['bytes']} bytes): a truncated download or a changed source. Run again; if it stays, the source has changed") from None
        except (requests.RequestException, OSError) as error:
            reasons.append(f"{url}: {type(error).__name__}")
    raise ReproError(f"cannot get {file} of {paper} ({'; '.join(reasons)}). Set REPRISE_MIRROR to a folder or URL that has {paper}/{file}, or connect to the internet")


class _Retrying:
    """A pooch downloader that tries again after a broken connection."""

    def __init__(self, downloader):
        self.downloader = downloader

    def __call__(self, url, output_file, pup):
        for attempt in range(RETRIES):
            try:
                return self.downloader(url, output_file, pup)
            except (requests.ConnectionError, requests.Timeout):
                if attempt == RETRIES - 1:
                    raise


def _verify(path: Path, entry: dict, source: str) -> None:
    found = pooch.file_hash(str(path), alg="sha256")
    if found != entry["sha256"]:
        size = path.stat().st_size
        path.unlink()
        cut = f"it is cut short ({size} of {entry['bytes']} bytes)" if size < entry["bytes"] else f"its sha256 is {found[:12]}…, not {entry['sha256'][:12]}…"
        raise ReproError(f"{source} is not the registered file: {cut}. Remove or replace it, then run again")


def unpack(archive: Path, folder: Path, largest: int = LARGEST) -> list[Path]:
    """Unpack a zip or tar archive into `folder` after every member was checked; returns the files in name order.

    Raises:
        ReproError: a member has an absolute path or `..`, is a link or device, or all together exceed `largest` bytes.
    """
    opened = zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive) if tarfile.is_tarfile(archive) else None
    if opened is None:
        raise ReproError(f"{archive} is neither a zip nor a tar archive")
    with opened:
        if isinstance(opened, zipfile.ZipFile):
            members = [(i.filename, i.file_size, stat.S_IFMT(i.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR), i) for i in opened.infolist()]
        else:
            members = [(i.name, i.size, i.isfile() or i.isdir(), i) for i in opened.getmembers()]
        for name, _, plain, _ in members:
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or ":" in name:
                raise ReproError(f"{archive}: member {name!r} would be written outside the folder; nothing was unpacked")
            if not plain:
                raise ReproError(f"{archive}: member {name!r} is a link or a device; nothing was unpacked")
        if (total := sum(size for _, size, _, _ in members)) > largest:
            raise ReproError(f"{archive}: unpacks to {total} bytes, more than the {largest} allowed; nothing was unpacked")
        for _, _, _, member in members:
            opened.extract(member, folder, **({} if isinstance(opened, zipfile.ZipFile) else {"filter": "data"}))
    return sorted(path for path in folder.rglob("*") if path.is_file())
