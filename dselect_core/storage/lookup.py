"""Which parts of a store hold wanted rows, and these rows of them.

One join for all parts: a join with each of them would look through all that is wanted each time, and grow with the
square of the corpus where nothing is compacted yet. Trade-off: the keys of all parts lie side by side meanwhile.
"""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from dselect_core.storage.store_folder import ListedPart, Part, StoreFolder

_NUMBER, _ROW = "number_of_part", "row_of_part"


def parts_with(folder: StoreFolder, wanted_keys: pl.DataFrame, columns: Sequence[str] | None) -> list[Part]:
    """The parts with some of the wanted rows: these rows alone, in their order, with `columns` (None: all).

    wanted_keys: the key columns. Raises FileNotFoundError when a file vanishes meanwhile, ColumnNotFoundError for an
    unknown column.
    """

    def listed_keys(listed: ListedPart) -> tuple[ListedPart, Part] | None:
        keys = folder.read_keys(listed)
        return None if keys is None else (listed, keys)

    known = folder.collect_once(listed_keys)
    if not known:
        return []
    places = pl.concat(
        keys.frame.select(folder.keys).with_row_index(_ROW).with_columns(pl.lit(number, pl.UInt32).alias(_NUMBER))
        for number, (_, keys) in enumerate(known)
    )
    found = places.join(wanted_keys, on=list(folder.keys), how="semi", nulls_equal=True, maintain_order="left")
    parts = []
    for (number,), of_part in found.group_by(_NUMBER, maintain_order=True):
        listed, keys = known[number]
        in_keys = columns is not None and set(columns) <= set(keys.frame.columns)
        part = keys if in_keys else folder.read_part(listed, columns)
        if part is None:
            continue
        frame = part.frame if columns is None else part.frame.select(columns)
        if part.frame.height != keys.frame.height:  # a log has grown, or rows were found altered
            frame = frame.join(wanted_keys, on=list(folder.keys), how="semi", nulls_equal=True)
        elif of_part.height < frame.height:
            frame = frame[of_part[_ROW]]
        parts.append(replace(part, frame=frame))
    return parts
