"""Rows of one turn are written with one call, each waits for it, and a failure reaches all who wait."""

import asyncio

import pytest

from dselect_core.storage.group_commit import GroupCommit


def test_rows_of_one_turn_are_one_write_in_their_order_and_done_only_then() -> None:
    writes: list[list[int]] = []
    lines = GroupCommit[int](writes.append)

    async def hand_in(row: int) -> None:
        await lines.kept(row)
        assert any(row in written for written in writes)

    async def both() -> None:
        await asyncio.gather(*(hand_in(row) for row in range(5)))
        await hand_in(5)

    asyncio.run(both())
    assert writes == [[0, 1, 2, 3, 4], [5]]


def test_what_cannot_be_written_is_told_to_each_that_waits_and_the_next_ones_are_tried() -> None:
    full = True
    writes: list[list[int]] = []

    def write(rows: list[int]) -> None:
        if full:
            raise OSError("no space left on device")
        writes.append(rows)

    lines = GroupCommit[int](write)

    async def run() -> list[BaseException | None]:
        nonlocal full
        failed = await asyncio.gather(lines.kept(0), lines.kept(1), return_exceptions=True)
        full = False
        await lines.kept(2)
        return failed

    failed = asyncio.run(run())
    assert [str(error) for error in failed] == ["no space left on device"] * 2
    assert writes == [[2]]


def test_a_row_of_one_who_was_cancelled_is_written_all_the_same() -> None:
    writes: list[list[int]] = []
    lines = GroupCommit[int](writes.append)

    async def run() -> None:
        waiting = [asyncio.ensure_future(lines.kept(row)) for row in range(2)]
        waiting[0].cancel()
        await waiting[1]
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]

    asyncio.run(run())
    assert writes == [[0, 1]]
