"""The card of a published version: that of the coreset, with licence, language, digest and provenance."""

from collections.abc import Mapping
from typing import Any

import yaml

from dselect_core.escape import markdown_table
from dselect_core.redact import redact

DATA = "dataset/data/train-*.parquet"
"""The rows that `load_dataset` reads, from the folder of a version."""

_FENCE = "---\n"


def published_card(card: str, manifest: Mapping[str, Any], version: str, terms: Mapping[str, Any]) -> str:
    """card: of the coreset (coreset/export.py). terms: `license` and `language`, where the settings say them."""
    _, front, body = card.split(_FENCE, 2)
    facts = yaml.safe_load(front)
    facts["configs"][0]["data_files"] = [{"split": "train", "path": DATA}]
    return _with_front({**terms, **facts}, body + "\n" + "\n".join(_provenance(manifest, version, terms)))


def hub_card(before: str | None, recipe: str, card: str, within: str) -> str:
    """The card of a whole dataset of the hub, in which each recipe is a configuration.

    before: the card that is there. card: of the version that is published, which lies at `within`. The text is that of
    the version; the configurations of other recipes stay.
    """
    _, front, body = card.split(_FENCE, 2)
    facts = yaml.safe_load(front)
    own = {**facts["configs"][0], "config_name": recipe}
    own["data_files"] = [{"split": "train", "path": f"{within}/{DATA}"}]
    features = [{"config_name": recipe, **facts["dataset_info"]}]
    before_facts: dict[str, Any] = {}
    if before is not None and before.startswith(_FENCE):
        before_facts = yaml.safe_load(before.split(_FENCE, 2)[1]) or {}
    others = [each for each in before_facts.get("configs", []) if each.get("config_name") != recipe]
    infos = before_facts.get("dataset_info", [])
    infos = [each for each in infos if each.get("config_name") != recipe] if isinstance(infos, list) else []
    merged = {**before_facts, **facts, "configs": [*others, own], "dataset_info": [*infos, *features]}
    if others:
        merged["pretty_name"] = before_facts.get("pretty_name", facts["pretty_name"])
    return _with_front(merged, body)


def _with_front(facts: Mapping[str, Any], body: str) -> str:
    front = yaml.safe_dump(dict(facts), sort_keys=False, allow_unicode=True)
    return f"{_FENCE}{front}{_FENCE}{body}"


def _provenance(manifest: Mapping[str, Any], version: str, terms: Mapping[str, Any]) -> list[str]:
    model = manifest.get("model") or {}
    rows = {
        "published version": version,
        "license": terms.get("license", "not said; the samples keep the terms of their sources"),
        "language": ", ".join(terms.get("language", [])) or "not said",
        "digest of the rows (BLAKE2b-128 of their ids in order)": manifest["version"],
        "model": model.get("identity", "none"),
        **{f"scores: {kind}": made_by["fingerprint"] for kind, made_by in manifest.get("scores", {}).items()},
        **{f"source: {name}": versions["samples"] for name, versions in manifest.get("sources", {}).items()},
    }
    shown = [(redact(name), redact(str(value))) for name, value in rows.items()]
    return [
        "## Provenance",
        "",
        markdown_table(["", ""], shown),
        "",
        "`manifest.json` has all of it, with size and BLAKE2b-128 of every file (`b2sum -l 128`). Made by dselect.",
        "",
    ]
