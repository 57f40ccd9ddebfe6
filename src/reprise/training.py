"""What every training loop needs, behind one iterator: progress, the run record, resume points, exact resume.

    loop = Loop(stage, steps=1000, state={"model": model, "opt": optimiser, "rng": generator})
    for step in loop:
        ...
        loop.log(loss=loss)

A resume point holds all of `state` and the history so far. It lies outside DVC's outputs, under a key made of what the
stage depends on (parameters, sources, inputs), so an edit never continues an old run; it is written to a temporary
name, synced and renamed, its checksum in its name, and gone when the stage succeeds.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reprise import determinism, paths
from reprise.errors import ReproError
from reprise.stage import Stage

SAVE_EVERY = 30.0  # seconds between resume points; the result does not depend on it
TELL_EVERY = 10.0  # seconds between progress lines where there is no terminal


class Loop:
    """Iterate over steps 0..steps-1, resuming after the last resume point of an earlier, unfinished run.

    Args:
        stage: the stage that trains.
        steps: how many.
        state: everything that changes while training, as a dictionary of modules, optimisers (anything with
            `state_dict`), generators (torch or NumPy), tensors, arrays, numbers, or dictionaries and lists of these.
            Tensors and arrays are restored in place, numbers by assignment into their dictionary or list.
        name: tells several loops of one stage apart; the history is then `history_<name>.parquet`.
    """

    def __init__(self, stage: Stage, steps: int, state: dict[str, Any], name: str = ""):
        determinism.configure_torch()
        self.stage, self.steps, self.state, self.name = stage, steps, state, name
        self.step = 0
        self._rows: list[tuple[int, str, np.ndarray]] = []
        self._last: dict[str, tuple[int, np.ndarray]] = {}
        self._folder = paths.private(stage.root, "resume") / stage.id / _key(stage) / (name or "loop")
        self._record = paths.private(stage.root, "runs") / f"{stage.id}{'.' + name if name else ''}.jsonl"

    def __iter__(self) -> Iterator[int]:
        start = self._restore()
        if start:
            self.stage.log(f"resuming {self.name or 'training'} at step {start} of {self.steps}")
        self._write_record(fresh=True)
        saved = told = time.monotonic()
        first = start
        with Progress(TextColumn(self.stage.id), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), disable=not sys.stdout.isatty()) as bar:
            task = bar.add_task("", total=self.steps, completed=start, note="")
            begun = saved
            for self.step in range(start, self.steps):
                yield self.step
                bar.update(task, advance=1)
                now = time.monotonic()
                if now - told > (TELL_EVERY if bar.disable else 1.0):
                    told = now
                    note = self._note((self.step + 1 - first) / (now - begun))
                    bar.update(task, note=note)
                    if bar.disable:
                        print(f"{self.stage.id}: step {self.step + 1}/{self.steps} {note}", flush=True)
                    self._write_record()
                if now - saved > SAVE_EVERY:
                    self._save(self.step + 1)
                    saved = time.monotonic()
        if start < self.steps:
            self._save(self.steps)
        self._write_record()
        suffix = f"_{self.name}" if self.name else ""
        self.history().to_parquet(self.stage.out / f"history{suffix}.parquet", index=False)

    def log(self, **metrics: Any) -> None:
        """Record metrics of this step: scalars, or one-dimensional over the members of a stack.

        Raises:
            ReproError: a metric whose name begins with `loss` is not finite.
        """
        for metric, value in metrics.items():
            value = value.detach().cpu().numpy() if torch.is_tensor(value) else np.asarray(value)
            value = np.atleast_1d(value).astype(np.float64)
            if metric.startswith("loss") and not np.isfinite(value).all():
                member = int(np.flatnonzero(~np.isfinite(value))[0])
                before = f"; at step {self._last[metric][0]} it was still {self._last[metric][1][member]:.6g}" if metric in self._last else ""
                raise ReproError(f"{self.stage.id}: {metric} of member {member} is {value[member]} at step {self.step}{before}. Try a smaller learning rate, gradient clipping, or look for a zero in a division or logarithm")
            self._last[metric] = (self.step, value)
            self._rows.append((self.step, metric, value))

    def history(self) -> pd.DataFrame:
        """What was logged: step, metric, member, value, in the order of logging."""
        steps, metrics, values = zip(*self._rows, strict=True) if self._rows else ((), (), ())
        sizes = [len(v) for v in values]
        return pd.DataFrame(
            {
                "step": np.repeat(np.array(steps, dtype=np.int64), sizes),
                "metric": pd.Categorical(np.repeat(np.array(metrics, dtype=object), sizes)).astype(str) if sizes else pd.Series([], dtype=str),
                "member": np.concatenate([np.arange(n) for n in sizes]) if sizes else np.array([], dtype=np.int64),
                "value": np.concatenate(values) if sizes else np.array([]),
            }
        )

    def _note(self, rate: float) -> str:
        values = " ".join(f"{metric} {value.mean():.4g}" for metric, (_, value) in self._last.items())
        return f"{values} ({rate:.3g} steps/s)"

    def _write_record(self, fresh: bool = False) -> None:
        """Append the rows not yet written to the run record, which `make ui` follows while the stage runs."""
        if fresh:
            self._written = 0
            values = self.stage.params.model_dump(mode="json") if self.stage.params else {}
            header = {"paper": self.stage.paper, "stage": self.stage.name, "scale": self.stage.scale, "variant": self.stage.variant, "params": values}
            self._record.write_text(json.dumps(header) + "\n")
        with self._record.open("a") as file:
            for step, metric, value in self._rows[self._written :]:
                file.write(json.dumps({"step": step, "metric": metric, "mean": float(value.mean())}) + "\n")
        self._written = len(self._rows)

    # -- resume points -------------------------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        names = sorted({metric for _, metric, _ in self._rows})
        history = {
            "step": np.array([s for s, _, _ in self._rows], dtype=np.int64),
            "metric": np.array([names.index(m) for _, m, _ in self._rows], dtype=np.int64),
            "size": np.array([len(v) for _, _, v in self._rows], dtype=np.int64),
            "value": np.concatenate([v for _, _, v in self._rows]) if self._rows else np.zeros(0),
        }
        tensors: dict[str, torch.Tensor] = {}
        skeleton = _flatten({"step": step, "names": names, "history": history, "state": _snapshot(self.state)}, "", tensors)
        data = safetensors.torch.save(tensors, metadata={"skeleton": json.dumps(skeleton)})
        self._folder.mkdir(parents=True, exist_ok=True)
        final = self._folder / f"{step:012d}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
        temporary = final.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
        for old in sorted(self._folder.glob("*.safetensors"))[:-2]:
            old.unlink()

    def _restore(self) -> int:
        """Load the newest resume point that is whole; returns the step to go on with."""
        for point in sorted(self._folder.glob("*.safetensors"), reverse=True):
            data = point.read_bytes()
            if point.stem.partition("-")[2] != hashlib.sha256(data).hexdigest()[:16]:
                continue  # torn by a crash of the machine: the one before it is whole
            with safetensors.safe_open(point, "pt") as file:
                skeleton = json.loads(file.metadata()["skeleton"])
            saved = _unflatten(skeleton, safetensors.torch.load(data))
            _restore(self.state, saved["state"])
            history = {key: value.numpy() for key, value in saved["history"].items()}
            parts = np.split(history["value"], np.cumsum(history["size"])[:-1])
            self._rows = [(int(s), saved["names"][m], v) for s, m, v in zip(history["step"], history["metric"], parts)]
            self._last = {metric: (step, value) for step, metric, value in self._rows}
            return saved["step"]
        return 0


def _key(stage: Stage) -> str:
    """What this training depends on: parameters, the sources loaded so far, and the inputs it asked for."""
    digest = hashlib.sha256(f"{stage.id} {stage.params!r} {stage.seed()} {torch.__version__}".encode())
    sources = {m.__file__ for name, m in list(sys.modules.items()) if name.startswith("reprise") and getattr(m, "__file__", None)}
    files = [Path(s) for s in sources] + [f for top in stage.inputs for f in ([top] if top.is_file() else top.rglob("*")) if f.is_file()]
    for file in sorted(set(files)):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _snapshot(thing: Any) -> Any:
    """`thing` as nested dictionaries and lists of tensors and plain values."""
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    if isinstance(thing, np.random.Generator):
        return thing.bit_generator.state
    if hasattr(thing, "state_dict"):
        return thing.state_dict()
    if isinstance(thing, dict):
        return {key: _snapshot(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_snapshot(value) for value in thing]
    return thing


def _restore(thing: Any, saved: Any) -> None:
    """Put `saved` back into the mutable `thing`."""
    if torch.is_tensor(thing):
        with torch.no_grad():
            thing.copy_(saved)
    elif isinstance(thing, np.ndarray):
        thing[...] = saved
    elif isinstance(thing, torch.Generator):
        thing.set_state(saved)
    elif isinstance(thing, np.random.Generator):
        thing.bit_generator.state = saved
    elif hasattr(thing, "load_state_dict"):
        thing.load_state_dict(saved)
    elif isinstance(thing, (dict, list)):
        for key, value in saved.items() if isinstance(thing, dict) else enumerate(saved):
            old = thing[key] if isinstance(thing, list) or key in thing else None
            if isinstance(old, (torch.Tensor, np.ndarray)) and getattr(old, "shape", ()) != getattr(value, "shape", None):
                thing[key] = value.numpy() if isinstance(old, np.ndarray) else value
            elif isinstance(old, (torch.Tensor, np.ndarray, torch.Generator, np.random.Generator, dict, list)) or hasattr(old, "load_state_dict"):
                _restore(old, value)
            else:
                thing[key] = value
    else:
        raise TypeError(f"a resume point cannot restore a {type(thing).__name__} in place: put it into a dictionary")


def _flatten(thing: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Move the tensors and arrays of `thing` into `tensors`; returns its JSON skeleton."""
    if torch.is_tensor(thing) or isinstance(thing, np.ndarray):
        tensors[name] = torch.as_tensor(thing).detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name, "numpy": isinstance(thing, np.ndarray) and name.startswith("/state")}
    if isinstance(thing, dict):
        return {"dict": [[key, _flatten(value, f"{name}/{key}", tensors)] for key, value in thing.items()]}
    if isinstance(thing, (list, tuple)):
        return {"list": [_flatten(value, f"{name}/{i}", tensors) for i, value in enumerate(thing)]}
    return {"value": thing.item() if isinstance(thing, np.generic) else thing}


def _unflatten(skeleton: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    if "tensor" in skeleton:
        tensor = tensors[skeleton["tensor"]]
        return tensor.numpy() if skeleton["numpy"] else tensor
    if "dict" in skeleton:
        return {key: _unflatten(value, tensors) for key, value in skeleton["dict"]}
    if "list" in skeleton:
        return [_unflatten(value, tensors) for value in skeleton["list"]]
    return skeleton["value"]
