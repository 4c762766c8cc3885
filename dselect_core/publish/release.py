"""What is published of a coreset: its files under a content version, the same for the same rows and terms."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dselect_core.coreset.published import FILES, MANIFEST, PublishedVersion, lacking_files
from dselect_core.errors import DselectError, first_line
from dselect_core.fingerprint import fingerprint
from dselect_core.publish.card import published_card
from dselect_core.settings.publish_spec import PublishSpec

REVISION = 1
"""Goes up when the same coreset under the same terms is published as other files."""

POINTER = "latest.json"
CARD = "README.md"
_CORESET_CARD = "dataset/README.md"
_LEFT_OUT = {MANIFEST, "changes.parquet", "order.parquet", _CORESET_CARD}


@dataclass(frozen=True)
class Release:
    """A coreset as it is published. version: 16 hex digits, of the rows in order and the terms they come under."""

    recipe: str
    version: str
    made: PublishedVersion
    terms: Mapping[str, Any]

    @property
    def manifest(self) -> dict[str, Any]:
        """The coreset's, for the folder of the version."""
        of_coreset = {key: value for key, value in self.made.manifest_elsewhere.items() if key != "changes"}
        return {**of_coreset, "published_version": self.version, **self.terms}

    @property
    def card(self) -> str:
        """The card of the version, as markdown."""
        of_coreset = self.made.read(_CORESET_CARD).decode()
        return published_card(of_coreset, self.made.manifest, self.version, self.terms)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """(name, content) of the files but the manifest, one after the other."""
        yield CARD, self.card.encode()
        for name in FILES:
            if name not in _LEFT_OUT:
                yield name, self.made.read(name)

    def pointer(self, versions: list[str]) -> dict[str, Any]:
        """What the pointer says. versions: that are kept, the one it names first."""
        counts = self.made.manifest["counts"]
        return {
            "recipe": self.recipe,
            "version": self.version,
            "digest": self.made.version,
            "rows": counts["rows"],
            **self.terms,
            "dselect_version": self.made.manifest.get("dselect_version"),
            "versions": versions,
        }


def terms_of(publish: PublishSpec) -> dict[str, Any]:
    """`license` and `language`, where the settings say them."""
    said = {"license": publish.license, "language": publish.language}
    return {name: value for name, value in said.items() if value}


def release_of(made: PublishedVersion, recipe: str, publish: PublishSpec) -> Release:
    """A version of a coreset as it would be published."""
    terms = terms_of(publish)
    return Release(recipe, fingerprint([REVISION, made.version, terms])[:16], made, terms)


def pointers_of(contents: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{file: content} of the JSON files of a recipe's folder that are pointers: they name a version."""
    return {name: content for name, content in contents.items() if isinstance(content.get("version"), str)}


def why_not_whole(present: Mapping[str, int | None], version: str, read: Callable[[str], dict[str, Any]]) -> str | None:
    """What a version lacks where it is published, in words; None where it is whole.

    present: {file: bytes, None where not known} of the recipe's folder there; read: the content of a JSON file of it.
    Contents of rows are not read: a version is never written again, so what is there in its size is what was written.
    """
    if f"{version}/{MANIFEST}" not in present:
        return f"has no whole version {version}"
    try:
        lacking = lacking_files(read(f"{version}/{MANIFEST}"), f"{version}/", present)
    except (DselectError, KeyError, TypeError, AttributeError) as error:
        return f"has a manifest of version {version} that cannot be read ({first_line(error)})"
    return f"lacks {lacking[0]} of version {version}" if lacking else None


def kept_versions(version: str, pointers: Mapping[str, dict[str, Any]], keep: int) -> tuple[list[str], list[str]]:
    """The versions that stay behind the one that is published, this one first, and those that go.

    keep: versions that stay beside those that pointers other than ours name.
    """
    listed = pointers.get(POINTER, {}).get("versions", [])
    pinned = {pointer["version"] for name, pointer in pointers.items() if name != POINTER}
    order = list(dict.fromkeys([version, *listed]))
    stay = [name for place, name in enumerate(order) if place < keep or name in pinned]
    return stay, [name for name in order if name not in stay]
