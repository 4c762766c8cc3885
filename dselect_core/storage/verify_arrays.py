"""Reads whole the arrays of a store, so that altered rows are known before anybody asks for them.

Trade-off: it costs a pass over the vectors. `verified_files.py` keeps which arrays were read, so each is read once.
"""

from collections.abc import Callable

import numpy as np

from dselect_core.storage import vector_file
from dselect_core.storage.score_store import Store
from dselect_core.storage.store_folder import CHECK, ROW, ListedPart, StoreFolder, array_path


def verify_arrays(store: Store, is_verified: Callable[[str], bool]) -> list[str]:
    """Read the arrays that are not verified yet, and note their altered rows; returns the names of the good.

    is_verified: of the name of an array file.
    """
    folder = StoreFolder(store.folder, store.keys, store.retry_column, store.array_column, store.skipped)

    def verify(listed: ListedPart) -> str | None:
        array = array_path(listed.path)
        part = None if is_verified(array.name) else folder.read_keys(listed)
        if part is None or part.layout is None or not part.layout.rows:
            return None
        rows = part.frame.drop_nulls(ROW)
        values = np.empty((rows.height, part.layout.width), np.dtype(part.layout.dtype))
        at, checks = np.arange(rows.height), rows[CHECK].to_numpy()
        altered = vector_file.read_vectors_into(values, at, array, part.layout, rows[ROW].to_numpy(), checks)
        if len(altered):
            folder.mark_altered(listed.path, part.layout, altered)
        return None if len(altered) or rows.height < part.layout.rows else array.name

    return folder.collect(verify)
