"""dselect.yaml as typed settings: one file, unknown keys are errors that name the nearest key.

Paths in the file are relative to the file. Nothing here touches data or models: reading the
settings is cheap enough to do at code-location load and on every sensor tick.
"""

import json
import os
import typing
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from dselect_core.errors import DselectError, explain_os_error
from dselect_core.redact import remember, remember_options, remember_url
from dselect_core.select.recipe import CoresetSpec, StrictModel, check_quotas, explain_unknown_key
from dselect_core.settings.candidates_check import check_candidates
from dselect_core.settings.checks_spec import ChecksSpec
from dselect_core.settings.compute_spec import ComputeSpec
from dselect_core.settings.freshness_spec import FreshnessSpec
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.graders_check import check_grader_names, check_rewards, check_rubrics, judges_of
from dselect_core.settings.model_spec import ModelSpec
from dselect_core.settings.names_check import check_names
from dselect_core.settings.neighbors_spec import NearDuplicatesSpec, NeighborSpec
from dselect_core.settings.publish_spec import PublishSpec, check_publish
from dselect_core.settings.roles_check import check_roles
from dselect_core.settings.scores_spec import ActivationSpec, DifficultySpec, PartSpec
from dselect_core.settings.token_prices import TokenPrice
from dselect_core.settings.trials_spec import TrialsSpec
from dselect_core.settings.tuning_spec import FeedbackSpec
from dselect_core.settings.yaml_faults import where_in_yaml, with_null

CONFIG_ENV = "DSELECT_CONFIG"
SCHEMA_FILE = Path(__file__).with_name("dselect.schema.json")
Format = Literal["auto", "alpaca", "sharegpt", "messages", "prompt_completion", "strings"]
Role = Literal["train", "eval", "target"]


class SourceSpec(StrictModel):
    """Where one source's rows come from: files (`path`) or a Hugging Face dataset (`dataset`)."""

    path: str | list[str] | None = Field(None, description="file, folder, glob or list of them; local, s3://, hf://")
    dataset: str | None = Field(None, description="Hugging Face dataset: hub name, or folder of save_to_disk")
    name: str | None = Field(None, description="configuration of the dataset")
    revision: str | None = Field(None, description="revision of the dataset")
    split: str = Field("train", description="split of the dataset")
    format: Format = Field("auto", description="shape of a row; detected from the rows by default")
    storage_options: dict[str, Any] = Field(default_factory=dict, description="fsspec options, e.g. endpoint_url")
    on_bad_file: Literal["fail", "skip"] = Field(
        "fail", description="a file that is bad as a whole: the source does not land, or lands without it (told)"
    )
    max_row_bytes: int = Field(8_000_000, gt=0, description="larger rows go to quarantine, and are not held in memory")
    role: Role = Field(
        "train",
        description="train: rows to choose from; eval: held out for trials, and what it shares with the pool is never "
        "chosen; target: examples of what the model should be good at, never chosen either",
    )

    @model_validator(mode="after")
    def _one_place(self) -> "SourceSpec":
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either `path` (files) or `dataset` (Hugging Face), not both and not neither")
        return self

    def model_post_init(self, _: Any) -> None:
        """What is secret in the address and the options is hidden from now on, wherever it would be shown."""
        remember_options(self.storage_options)
        for url in (*self.paths, self.dataset or ""):
            remember_url(url)

    @property
    def paths(self) -> list[str]:
        """The paths as a list; empty where rows come from a dataset."""
        return [self.path] if isinstance(self.path, str) else list(self.path or [])


class WarmupSpec(StrictModel):
    """How the builtin model is made: a small Llama tuned on a small part of the pool."""

    samples: int = Field(1024, gt=0, description="pool samples it is tuned on")
    steps: int = Field(300, gt=0, description="optimizer steps")
    batch_tokens: int = Field(1024, gt=0, description="tokens per optimizer step, padding included")
    max_length: int = Field(512, gt=8, description="tuning length in tokens, longer samples are cut")
    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate")
    vocab_size: int = Field(4096, ge=300, description="tokens of the tokenizer that is trained on the pool")
    hidden_size: int = Field(192, gt=0, description="width of the model")
    layers: int = Field(4, gt=0, description="depth of the model")
    heads: int = Field(6, gt=0, description="attention heads")
    window: int = Field(1024, gt=8, description="the built model's window in tokens")
    seed: int = Field(0, description="of the weights and of the choice of samples")


class EmbeddingSpec(StrictModel):
    """Whose prompt vectors choose MIWV's shots: the target model's, or those of an encoder at `path`.

    An encoder keeps its own pooling, window, normalisation and default prompt, as sentence-transformers reads them. The
    MIWV paper mean-pools BGE, whose own pooling is cls: `{path: BAAI/bge-large-en-v1.5, pooling: mean}` is its setting.
    D3's vectors of whole samples are always the target model's own.
    """

    source: Literal["model"] | None = Field(
        None, alias="from", description="`model`: the target model, as without any key"
    )
    path: str | None = Field(None, description="encoder by hub name or local folder")
    revision: str | None = Field(None, description="branch, tag or commit of a hub encoder")
    pooling: Literal["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"] | None = Field(
        None, description="how the encoder's token vectors become one; by default the encoder's own, else mean"
    )
    max_length: int | None = Field(None, gt=8, description="cap on the encoder's window in tokens; by default its own")

    @model_validator(mode="after")
    def _one_place(self) -> "EmbeddingSpec":
        if self.source is not None and self.path is not None:
            raise ValueError("give either `from: model` or `path` (an encoder), not both")
        if self.pooling is not None and self.path is None:
            raise ValueError("`pooling` is an encoder's: give its `path` too")
        return self


class Settings(StrictModel):
    """dselect.yaml as a whole."""

    storage: str = Field(".dselect", description="folder or s3:// prefix that holds every table")
    storage_options: dict[str, Any] = Field(default_factory=dict, description="fsspec options for the storage")
    sources: dict[str, SourceSpec] = Field(description="where rows come from, by name")
    model: ModelSpec = Field(ModelSpec(), description="the target model")
    warmup: WarmupSpec = Field(WarmupSpec(), description="how the builtin model is made")
    embeddings: EmbeddingSpec = Field(EmbeddingSpec(), description="whose prompt vectors choose MIWV's shots")
    neighbors: NeighborSpec = Field(NeighborSpec(), description="how shots are searched")
    near_duplicates: NearDuplicatesSpec | None = Field(None, description="of samples that are alike one is chosen from")
    difficulty: DifficultySpec = Field(DifficultySpec(), description="parameters of UPD")
    activations: ActivationSpec = Field(ActivationSpec(), description="which neurons count as active")
    grader: GraderSpec = Field(GraderSpec(), description="who grades dependability")
    graders: dict[str, GraderSpec] = Field(
        default_factory=dict,
        description="several graders by name, in place of `grader`; a recipe says whose grades it reads (`grade`)",
    )
    parts: PartSpec = Field(PartSpec(), description="how often finished rows are written")
    compute: ComputeSpec = Field(ComputeSpec(), description="in which processes scores are computed")
    coresets: dict[str, CoresetSpec] = Field(description="recipes, by the name of their coreset")
    feedback: FeedbackSpec = Field(FeedbackSpec(), description="how models are tuned for d3's rounds")
    trials: TrialsSpec = Field(TrialsSpec(), description="how the coresets with `trial: true` are tried")
    checks: ChecksSpec = Field(ChecksSpec(), description="from where on the checks of the graph warn")
    publish: PublishSpec | None = Field(None, description="where coresets are published to; without it nowhere")
    keep_versions: int = Field(
        3, ge=1, description="versions of each coreset that the storage keeps, the one in force among them"
    )
    schedule: str = Field("0 3 * * *", description="cron line (UTC) of the schedules that refresh")
    freshness: FreshnessSpec | None = Field(None, description="how long ago some coreset may have been made at most")
    reports_url: str | None = Field(
        None,
        description="the address at which the storage's folder `reports` is served, so that Dagster links to its "
        "pages; `dselect dev` serves it at a port of this machine, `http://127.0.0.1:3001`",
    )
    owners: list[str] = Field(default_factory=lambda: ["team:data-curation"], description="owners shown in Dagster")

    def model_post_init(self, _: Any) -> None:
        """What is secret in the addresses and the options is hidden from now on, wherever it would be shown."""
        remember_options(self.storage_options)
        for url in (self.storage, self.model.path, self.trials.model or ""):
            remember_url(url)
        for grader in self.all_graders.values():
            for place in (grader.base_url, grader.rubric, *grader.rubrics.values(), grader.local_model):
                remember_url(place or "")
            if grader.api_key is not None:
                remember(os.environ.get(grader.api_key.env, "").strip())

    @model_validator(mode="after")
    def _names(self) -> "Settings":
        check_quotas(self.coresets, {name: spec.role for name, spec in self.sources.items()})
        check_names("source", self.sources)
        check_names("coreset", self.coresets)
        if self.publish is not None:
            check_publish(self.publish, self.coresets)
        return self

    @model_validator(mode="after")
    def _roles_are_there(self) -> "Settings":
        check_roles(self.coresets, {spec.role for spec in self.sources.values()})
        return self

    @model_validator(mode="after")
    def _graders_are_there(self) -> "Settings":
        if self.graders and self.grader != GraderSpec():
            raise ValueError("give `grader` or `graders`, not both: name that one too. Its grades are kept")
        check_grader_names(self.graders)
        # In place, for the whole is frozen: each grader knows its name, and each recipe whose grades it reads.
        for name, grader in self.graders.items():
            self.graders[name] = grader.named(name)
        for recipe, spec in self.coresets.items():
            if (judges := judges_of(f"coresets.{recipe}", spec, self.graders)) != spec.grade:
                self.coresets[recipe] = spec.model_copy(update={"grade": judges})
        near = self.near_duplicates
        if near is not None and (judges := judges_of("near_duplicates", near, self.graders)) != near.grade:
            object.__setattr__(self, "near_duplicates", near.model_copy(update={"grade": judges}))
        check_rewards(self.coresets, self.all_graders)
        check_rubrics(self.all_graders.values(), self.sources)
        for grader in self.all_graders.values():
            if grader.candidates == "only":
                check_candidates(grader, self.coresets, self.near_duplicates)
        return self

    def of_source(self, source: str) -> "Settings":
        """The settings as they are in force for the rows of one source: with its own rubrics."""
        if not any(grader.rubrics for grader in self.all_graders.values()):
            return self
        return self.with_graders(grader.of_source(source) for grader in self.all_graders.values())

    def alike(self, sources: Iterable[str], judge: str | None = None) -> list[list[str]]:
        """The sources in groups for whose rows a grader has the same rubric; each in the order given.

        judge: the grader's name among `graders`; None, or one that is gone from the settings: `grader`.
        """
        grader = self.all_graders.get(judge, self.grader)
        groups: dict[str | None, list[str]] = {}
        for source in sources:
            groups.setdefault(grader.of_source(source).rubric, []).append(source)
        return list(groups.values())

    def with_graders(self, graders: Iterable[GraderSpec]) -> "Settings":
        """The settings with these in the place of the graders of the same names."""
        changed = {grader.name: grader for grader in graders}
        named = {name: changed.get(name, grader) for name, grader in self.graders.items()}
        return self.model_copy(update={"graders": named, "grader": changed.get(None, self.grader)})

    @property
    def all_graders(self) -> dict[str | None, GraderSpec]:
        """Those of `graders` by name; where there are none, `grader` without one."""
        return dict(self.graders.items()) if self.graders else {None: self.grader}

    @property
    def prices(self) -> dict[str, TokenPrice]:
        """{model behind an endpoint: what its tokens cost}, where that is known."""
        graders = self.all_graders.values()
        return {each.model: each.price for each in graders if each.model is not None and each.price is not None}

    def grader_of(self, judge: str | None) -> GraderSpec:
        """The grader of that name; None: the only one. Raises DselectError where there is none such."""
        if judge not in (graders := self.all_graders):
            told = ", ".join(str(name) for name in graders if name is not None)
            if judge is None:
                raise DselectError(
                    f"several graders are named ({told}): say whose grades, as `grades@{min(self.graders)}`"
                )
            raise DselectError(f"no grader `{judge}`; under `graders` there are: {told or 'none'}")
        return graders[judge]

    def sources_of(self, role: Role) -> list[str]:
        """Names of the sources with a role, sorted."""
        return sorted(name for name, spec in self.sources.items() if spec.role == role)

    def role_of(self, source: str) -> Role:
        """The role of a source. One that is gone from the settings lands without rows, and counts as `train`."""
        spec = self.sources.get(source)
        return "train" if spec is None else spec.role


def config_path() -> Path:
    """The settings file in force: $DSELECT_CONFIG, else dselect.yaml in the working directory."""
    return Path(os.environ.get(CONFIG_ENV, "dselect.yaml")).resolve()


def load_settings(path: Path | None = None) -> Settings:
    """Read and check dselect.yaml; local paths come back absolute.

    Raises DselectError naming the file, the key, and the nearest known key when one was misspelled.
    """
    path = path or config_path()
    try:
        data = _parsed(path.read_bytes())
    except FileNotFoundError:
        raise DselectError(
            f"{path}: no such file. Write one with `dselect init FOLDER`, or name it in ${CONFIG_ENV}."
        ) from None
    except OSError as error:
        raise DselectError(explain_os_error(error)) from None
    except UnicodeDecodeError as error:
        raise DselectError(f"{path}: not UTF-8 (byte {error.start + 1}). Save it as UTF-8 text.") from None
    except yaml.YAMLError as error:
        raise DselectError(f"{path}: not valid YAML: {where_in_yaml(error)}") from None
    except RecursionError:
        raise DselectError(f"{path}: nested too deeply. Write fewer lists or mappings inside one another.") from None
    return check_settings(data, str(path), path.parent)


@lru_cache(maxsize=4)
def _parsed(text: bytes) -> Any:
    """What the YAML holds; nobody changes it. Each run of Dagster reads the settings, three times in one process."""
    return yaml.safe_load(text.decode("utf-8-sig"))


def check_settings(data: object, written_in: str, folder: Path) -> Settings:
    """Settings from what YAML holds; local paths are meant relative to a folder, and come back absolute.

    Raises DselectError naming where it is written, the key, and the nearest known key when one was misspelled.
    """
    if (place := with_null(data)) is not None:
        raise DselectError(f"{written_in}: {place or '(top level)'}: holds a null character (\\0). Take it out.")
    if not isinstance(data, dict):
        raise DselectError(
            f"{written_in}: expected a mapping with `sources` and `coresets`. `dselect init FOLDER` writes one."
        )
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise DselectError(f"{written_in}:\n" + "\n".join(f"  {_explain(e)}" for e in error.errors())) from None
    return _absolute(settings, folder)


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "(top level)"
    if error["type"] == "extra_forbidden":
        *parents, key = error["loc"]
        return f"{where}: {explain_unknown_key(str(key), _keys_at(parents))}"
    if error["type"] == "missing":
        return f"{where}: this key is required"
    return f"{where}: {str(error['msg']).removeprefix('Value error, ')}"


def _keys_at(parents: list[Any]) -> list[str]:
    """The keys that settings know at a place, given as the path of keys that leads there."""
    model: Any = Settings
    for part in parents:
        field = model.model_fields.get(part) or next((f for f in model.model_fields.values() if f.alias == part), None)
        if field is None:
            continue  # the name of a source or of a coreset
        candidates = [field.annotation, *typing.get_args(field.annotation)]
        model = next(a for a in candidates if isinstance(a, type) and issubclass(a, BaseModel))
    return [f.alias or name for name, f in model.model_fields.items()]


def _absolute(settings: Settings, folder: Path) -> Settings:
    """Local paths are meant relative to the settings file, whatever the working directory."""

    def local(path: str) -> str:
        return path if "://" in path or path.startswith("~") else str(folder / path)

    def model_path(path: str) -> str:
        # A hub name ("org/model") looks like a relative path; it is one only when such a folder is there
        # or when it is written as a path. No hub name ends as a GGUF file does.
        written_as_path = path.startswith((".", "/", "~")) or path.endswith(".gguf")
        return str(folder / Path(path).expanduser()) if written_as_path or (folder / path).is_dir() else path

    sources = {
        name: spec.model_copy(update={"path": [local(p) for p in spec.paths]})
        if spec.path is not None
        else spec.model_copy(update={"dataset": model_path(spec.dataset or "")})
        for name, spec in settings.sources.items()
    }
    update: dict[str, Any] = {"sources": sources, "storage": local(settings.storage)}
    if settings.model.path != "builtin":
        update["model"] = settings.model.model_copy(update={"path": model_path(settings.model.path)})
    update["trials"] = settings.trials.with_absolute_paths(local, model_path)
    if settings.publish is not None:
        update["publish"] = settings.publish.with_absolute_paths(local)
    if settings.embeddings.path is not None:
        update["embeddings"] = settings.embeddings.model_copy(update={"path": model_path(settings.embeddings.path)})
    graders = [grader.with_absolute_paths(local, model_path) for grader in settings.all_graders.values()]
    return settings.model_copy(update=update).with_graders(graders)


def json_schema() -> dict[str, Any]:
    """JSON schema of dselect.yaml, for editors; shipped as `dselect.schema.json`."""
    return Settings.model_json_schema(by_alias=True)


if __name__ == "__main__":
    SCHEMA_FILE.write_text(json.dumps(json_schema(), indent=2) + "\n", "utf-8")
