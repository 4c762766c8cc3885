"""Random draws: nested, stable when the pool moves, of the size that was asked for."""

from hypothesis import given
from hypothesis import strategies as st

from dselect_core.runs.run_store import of_samples
from dselect_core.trials.draws import draw_order, take_balanced, take_tokens

IDS = st.lists(st.text("0123456789abcdef", min_size=4, max_size=4), unique=True, min_size=1, max_size=40)


@given(IDS, st.integers(0, 5), st.data())
def test_a_row_that_comes_or_goes_moves_no_other(ids: list[str], number: int, data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.sampled_from(ids), unique=True))
    order = draw_order(ids, number)
    assert sorted(order) == sorted(ids)
    assert draw_order(kept, number) == [sample_id for sample_id in order if sample_id in set(kept)]


def test_draws_differ_from_each_other() -> None:
    ids = [f"{i:04}" for i in range(60)]
    assert len({tuple(draw_order(ids, number)) for number in range(20)}) == 20
    assert of_samples("random", 0, ids[:5]).content == of_samples("coreset", 3, ids[4::-1]).content


@given(IDS, st.integers(1, 500), st.data())
def test_as_many_tokens_as_can_be_from_the_front(ids: list[str], tokens: int, data: st.DataObject) -> None:
    lengths = {sample_id: data.draw(st.integers(1, 60)) for sample_id in ids if data.draw(st.booleans())}
    taken = take_tokens(ids, lengths, tokens)
    counted = [sample_id for sample_id in ids if sample_id in lengths]
    assert taken == counted[: len(taken)]
    if not counted:
        return
    assert taken
    total = sum(lengths[sample_id] for sample_id in taken)
    for other in (taken[:-1], counted[: len(taken) + 1]):
        if other:
            assert abs(total - tokens) <= abs(sum(lengths[i] for i in other) - tokens)


@given(IDS, st.integers(1, 45), st.data())
def test_as_many_of_each_source_as_there_are(ids: list[str], rows: int, data: st.DataObject) -> None:
    source_of = {sample_id: data.draw(st.sampled_from("xyz")) for sample_id in ids}
    taken = take_balanced(ids, source_of, rows)
    assert len(taken) == len(set(taken)) == min(rows, len(ids))
    counts = {source: [source_of[i] for i in taken].count(source) for source in set(source_of.values())}
    for source, count in counts.items():
        # A source that has fewer than another has no more to give.
        if count < max(counts.values()) - 1:
            assert count == list(source_of.values()).count(source)
        of_source = [i for i in ids if source_of[i] == source]
        assert [i for i in taken if source_of[i] == source] == of_source[:count]
