"""Publish to a folder or an object store: a folder that is not written again, then the pointer.

    <to>/<recipe>/<version>/README.md, dataset/, coreset.jsonl, coreset.parquet, alpaca.json, manifest.json
    <to>/<recipe>/latest.json      names the version in force, and those that are kept

The manifest of a version is written last, so a version with one is whole, and is not written again. Where somebody has
removed a file that it lists, all of it is: the same rows, with gains and origins as the coreset has them now. A process
that is killed before the pointer leaves the version in force as it was; the next run goes on from there. Any `*.json`
beside `latest.json` that has a `version` is a pointer too (a copy of it as `production.json`, say), and what it names
stays.

Trade-off: two processes that publish other choices of one recipe at the same moment leave the pointer to the later one.
"""

import logging
import re
import shutil
import time
from pathlib import Path

from upath import UPath

from dselect_core.coreset.published import write_in_place
from dselect_core.publish.release import POINTER, Release, kept_versions, pointers_of, why_not_whole
from dselect_core.storage.files import ORPHAN_SECONDS, is_local
from dselect_core.storage.folder_listing import FileEntry, list_tree
from dselect_core.storage.json_file import read_json, write_json

_VERSION = re.compile(r"[0-9a-f]{16}")

_log = logging.getLogger(__name__)


def publish_to_folder(release: Release, root: UPath, keep: int) -> tuple[bool, list[str]]:
    """Returns whether a version was written, and the versions that went.

    keep: versions that are kept beside those that other pointers name. Raises DamagedFileError for a pointer that
    cannot be read.
    """
    folder = root / release.recipe
    present = list_tree(folder)
    names = [name for name in present if "/" not in name and name.endswith(".json") and not name.startswith(".")]
    pointers = pointers_of({name: read_json(folder / name) for name in names})
    sizes = {name: entry.size for name, entry in present.items()}
    is_new = why_not_whole(sizes, release.version, lambda name: read_json(folder / name)) is not None
    if is_new:
        write_in_place(folder / release.version, release.files(), release.manifest)
    stay, gone = kept_versions(release.version, pointers, keep)
    before = pointers.get(POINTER, {})
    if (before.get("version"), before.get("versions")) != (release.version, stay):
        write_json(release.pointer(stay), folder / POINTER)
    named = {*stay, *(pointer["version"] for name, pointer in pointers.items() if name != POINTER)}
    gone = sorted({*gone, *_left_over(present)} - named)
    for name in gone:
        _remove(folder, name)
    return is_new, gone


def _left_over(present: dict[str, FileEntry]) -> set[str]:
    """Folders of versions that nobody has written to for an hour."""
    newest: dict[str, float] = {}
    for path, entry in present.items():
        name, _, inside = path.partition("/")
        if inside and _VERSION.fullmatch(name):
            newest[name] = max(newest.get(name, 0.0), entry.modified)
    return {name for name, modified in newest.items() if time.time() - modified > ORPHAN_SECONDS}


def _remove(folder: UPath, name: str) -> None:
    try:
        if is_local(folder):
            shutil.rmtree(Path(folder.path) / name)
        else:
            folder.fs.rm((folder / name).path, recursive=True)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("%s: a version that no pointer names cannot be removed (%s). Remove it.", folder / name, error)
