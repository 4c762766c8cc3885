"""What was tuned, kept so that nothing is tuned twice.

<run>/run.json, <run>/weights/…   a run: what it was tuned on and how; visible when run.json is written, last

A run is named by the hash of all that its weights follow from: the samples, the model and its rendering, how it is
tuned, and the seed. So equal runs of different recipes, of re-landed rows or of another day are one. Trade-off: weights
that are kept take space (LoRA: megabytes).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from upath import UPath

from dselect_core.errors import DamagedFileError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.lm.tuning import TuneSpec
from dselect_core.storage.files import read_bytes, write_bytes
from dselect_core.storage.json_file import read_json, write_json

REVISION = 1
"""Goes up when the same samples, model and settings give other weights."""

_RUN, _FILES = "run.json", "files"


@dataclass(frozen=True)
class TrainingSet:
    """Samples that a model is tuned on, and the seed of that run.

    name: as in a report. number: of the draw, or of the run on a set that is not drawn; it is the run's seed too.
    ids: ascending, so that equal sets are equal whatever order they were chosen in.
    """

    name: str
    number: int
    ids: tuple[str, ...]

    @cached_property
    def content(self) -> str:
        """Hash of the samples. An id is a hash of its messages, so this names the text."""
        return digest(self.ids)


def of_samples(name: str, number: int, ids: Sequence[str]) -> TrainingSet:
    """A training set of these samples, given in any order."""
    return TrainingSet(name, number, tuple(sorted(ids)))


@dataclass(frozen=True)
class Run:
    """One tuning. made_from: all that its weights follow from, as JSON values; it names the run."""

    training_set: TrainingSet
    spec: TuneSpec
    model: dict[str, Any]

    @property
    def made_from(self) -> dict[str, Any]:
        """All that the weights follow from."""
        return {
            "revision": REVISION,
            "content": self.training_set.content,
            "rows": len(self.training_set.ids),
            "model": self.model,
            "tuning": asdict(self.spec),
        }

    @cached_property
    def fingerprint(self) -> str:
        """Names the run."""
        return fingerprint(self.made_from)


class RunStore:
    """The runs in a folder. What is damaged counts as not there, and is made again."""

    def __init__(self, folder: UPath):
        self._runs = folder

    def facts(self, run: Run) -> dict[str, Any] | None:
        """What is known of a finished run; None where it was not tuned yet."""
        try:
            stored = read_json(self._runs / run.fingerprint / _RUN)
        except (FileNotFoundError, DamagedFileError):
            return None
        return stored if stored.get("made_from") == run.made_from else None

    def has_weights(self, run: Run) -> bool:
        """Whether the run was tuned and its weights are kept."""
        files = (self.facts(run) or {}).get(_FILES)
        folder = self._runs / run.fingerprint / "weights"
        return bool(files) and all((folder / name).exists() for name in files or ())

    def write(self, run: Run, facts: dict[str, Any], weights: Path | None) -> None:
        """Keep a run. weights: a local folder of files; None: they are not kept."""
        folder = self._runs / run.fingerprint
        files = {}
        for path in sorted(weights.iterdir()) if weights is not None else ():
            data = path.read_bytes()
            write_bytes(data, folder / "weights" / path.name)
            files[path.name] = digest([data])
        write_json({"made_from": run.made_from, **facts, _FILES: files}, folder / _RUN)

    def with_weights(self, run: Run, use: Callable[[Path], Any]) -> Any:
        """What `use` returns for a local folder with the weights. Raises FileNotFoundError, or DamagedFileError."""
        with TemporaryDirectory(prefix="dselect-run-") as scratch:
            for name, content in (self.facts(run) or {}).get(_FILES, {}).items():
                path = self._runs / run.fingerprint / "weights" / name
                data = read_bytes(path)
                if digest([data]) != content:
                    raise DamagedFileError(path, "its content is not what the run wrote")
                (Path(scratch) / name).write_bytes(data)
            return use(Path(scratch))
