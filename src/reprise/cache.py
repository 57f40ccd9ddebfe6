"""DVC's cache as it lies on disk: an object for each file and for each folder's listing, named by its MD5.

DVC trusts the name of an object and never looks inside. The engine does, so that a damaged cache costs time, not truth.
"""

import hashlib
import json
import os
import re
import shutil
from functools import cache
from pathlib import Path

from reprise import params, paths


def md5_of(path: Path) -> str:
    """The MD5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def object_of(md5: str, root: Path) -> Path:
    """Where the object of that name lies, if it is there."""
    return folder(root) / "files" / "md5" / md5[:2] / md5[2:]


@cache
def folder(root: Path) -> Path:
    """The cache of a checkout, which may lie elsewhere (`dvc cache dir`)."""
    for name in ("config.local", "config"):
        path = root / ".dvc" / name
        if path.exists() and (found := re.search(r"\[cache\][^\[]*?\bdir\s*=\s*(\S+)", path.read_text())):
            return (root / ".dvc" / found[1]).resolve()
    return root / ".dvc" / "cache"


def check_out(md5: str, target: Path, root: Path = paths.ROOT) -> bool:
    """Copy an output from DVC's cache to its place; False (and nothing changed) if it is not whole there."""
    entry = object_of(md5, root)
    if not entry.exists() or md5_of(entry) != md5.removesuffix(".dir"):
        return False
    listing = json.loads(entry.read_text()) if md5.endswith(".dir") else [{"md5": md5, "relpath": ""}]
    objects = [(object_of(item["md5"], root), item) for item in listing]
    if not all(path.exists() and md5_of(path) == item["md5"] for path, item in objects):
        return False
    temporary = paths.private(root, "work") / f"checkout-{md5}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for path, item in objects:
        place = temporary / "out" / item["relpath"]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    (temporary / "out").mkdir(exist_ok=True) if md5.endswith(".dir") else None
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary / "out", target)
    shutil.rmtree(temporary)
    return True


def stored(md5: str, root: Path) -> bool:
    """Whether the cache has every object of an output; their contents are not read."""
    entry = object_of(md5, root)
    if not (entry.exists() and md5.endswith(".dir")):
        return entry.exists()
    try:
        return all(object_of(item["md5"], root).exists() for item in json.loads(entry.read_text()))
    except (ValueError, TypeError, KeyError):
        return False


def whole(md5: str, root: Path) -> bool:
    """Whether the cache holds an output undamaged; what is damaged is removed, else DVC would trust its name and keep it."""
    intact = True
    left = [md5]
    while left:
        entry = object_of(left.pop(), root)
        if entry.exists() and md5_of(entry) != (entry.parent.name + entry.name).removesuffix(".dir"):
            entry.unlink()
        if not entry.exists():
            intact = False
        elif entry.suffix == ".dir":
            left += [item["md5"] for item in json.loads(entry.read_text())]
    return intact


def files(root: Path) -> list[Path]:
    """Every object, and every record of a run from which DVC could restore one."""
    return [path for kind in ("files/md5", "runs") for path in (folder(root) / kind).rglob("*") if path.is_file()]


def forget_runs(commands: set[str], kept: set[Path], root: Path) -> None:
    """Remove the runs of `commands` that are not among the files `kept`, and the objects that only they need."""
    for path in set(files(root)) - kept if commands else ():
        if "runs" in path.relative_to(folder(root)).parts[:1]:
            run = params.parse(path)
            if run["cmd"] in commands:
                path.unlink()
                for above in (path.parent, path.parent.parent):
                    above.rmdir() if not any(above.iterdir()) else None
                for out in run["outs"]:
                    _drop(out["md5"], kept, root)


def _drop(md5: str, kept: set[Path], root: Path) -> None:
    entry = object_of(md5, root)
    if entry in kept or not entry.exists():
        return
    for item in json.loads(entry.read_text()) if md5.endswith(".dir") else ():
        _drop(item["md5"], kept, root)
    entry.unlink()
    if not any(entry.parent.iterdir()):
        entry.parent.rmdir()
