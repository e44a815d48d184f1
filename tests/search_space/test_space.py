import logging
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from autotune.candidate import Candidate, DraftShape, Precision
from autotune.errors import BadRequest
from autotune.search_space.space import Ranges, SearchSpace, make_space
from tests.support.spaces import all_builds

MHA = DraftShape(layers=8, heads=4, kv_heads=4, head_dim=32, hidden=128, ffn=352, vocab=2048)
GQA = DraftShape(layers=6, heads=8, kv_heads=2, head_dim=16, hidden=128, ffn=512, vocab=1000)
MQA = DraftShape(layers=3, heads=4, kv_heads=1, head_dim=16, hidden=64, ffn=48, vocab=300)
BOTH = (Precision.FP32, Precision.INT8)


def space_of(source: DraftShape = MHA, *, precisions: tuple[Precision, ...] = BOTH, **ranges: str) -> SearchSpace:
    return make_space(source, Ranges(**ranges), ("onnxruntime",), precisions)


def range_text(largest: int) -> st.SearchStrategy[str]:
    numbers = st.integers(1, largest)
    lists = st.lists(numbers, min_size=1, max_size=4).map(lambda values: ",".join(map(str, values)))
    spans = st.tuples(numbers, numbers, st.integers(1, 3)).map(lambda t: f"{min(t[:2])}:{max(t[:2])}:{t[2]}")
    return st.one_of(lists, spans)


@st.composite
def spaces(draw: Callable[..., object]) -> SearchSpace:
    group, kv_heads = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    source = DraftShape(
        layers=draw(st.integers(1, 9)),
        heads=group * kv_heads,
        kv_heads=kv_heads,
        head_dim=8,
        hidden=draw(st.sampled_from([16, 48, 64])),
        ffn=draw(st.integers(1, 130)),
        vocab=50,
    )
    limits = {
        "layers": source.layers,
        "heads": source.heads,
        "kv_heads": kv_heads,
        "ffn": source.ffn,
        "hidden": source.hidden,
    }
    ranges = {name: draw(st.none() | range_text(limit)) for name, limit in limits.items()}
    ranges["draft_vocab"] = draw(st.sampled_from([None, "full", "full,20", "7,30, full", "49,90,10"]))
    lookahead = draw(st.sampled_from(["0:4", "1:3", "2", "0,1,2,5", "0:8:4"]))
    precisions = draw(st.sampled_from([(Precision.FP32,), BOTH]))
    try:
        return make_space(
            source,
            Ranges(**ranges, lookahead=lookahead),
            ("a", "b")[: draw(st.integers(1, 2))],
            precisions,
            draw(st.none() | st.just({"a": set(BOTH), "b": {Precision.FP32}})),
        )
    except BadRequest:  # heads that do not divide
        return space_of(source)


@settings(max_examples=100, deadline=None)
@given(spaces(), st.data())
def test_every_build_is_distinct_inside_the_source_and_can_be_suggested(
    space: SearchSpace, data: st.DataObject
) -> None:
    builds = all_builds(space)
    assert len(builds) == len({build.key() for build in builds}) == space.size
    assert list(space.builds()) == builds
    for build in builds:
        inside(build.shape, space.source)
    for _ in range(5):
        build = data.draw(st.sampled_from(builds))
        candidate = Candidate(build, data.draw(st.sampled_from(space.lookahead.values)))
        assert space.suggest(FixedTrial(space.params(candidate))) == candidate


@settings(max_examples=100, deadline=None)
@given(spaces())
def test_seeds_are_distinct_members_of_the_space(space: SearchSpace) -> None:
    seeds = space.seeds()
    assert seeds
    assert {seed.build for seed in seeds} <= set(all_builds(space))
    assert len({seed.build for seed in seeds}) == len(seeds)
    assert {seed.lookahead for seed in seeds} <= set(space.lookahead.values)


@settings(max_examples=50, deadline=None)
@given(spaces(), st.integers(0, 9))
def test_a_draw_is_a_member_of_the_space(space: SearchSpace, seed: int) -> None:
    candidate = space.draw(Random(seed))
    assert candidate.build in all_builds(space)
    assert candidate.lookahead in space.lookahead.values
    assert candidate == space.draw(Random(seed))


@given(spaces())
def test_the_smallest_shape(space: SearchSpace) -> None:
    assert space.smallest.parameters == min(build.shape.parameters for build in all_builds(space))


def test_every_build_can_be_drawn() -> None:
    space, rng = space_of(MQA, layers="1:2"), Random(0)
    assert {space.draw(rng).build for _ in range(1000)} == set(all_builds(space))


def test_a_huge_space_is_never_listed() -> None:
    space = space_of(DraftShape(80, 64, 8, 128, 8192, 28672, 128256), layers="1:80", ffn="1:28672", hidden="2:8192:2")
    assert space.size > 10**9
    assert space.smallest.ffn == 1
    assert space.seeds()
    space.draw(Random(0))


def inside(shape: DraftShape, source: DraftShape) -> None:
    assert (shape.head_dim, shape.vocab) == (source.head_dim, source.vocab)
    assert shape.layers <= source.layers
    assert shape.hidden <= source.hidden
    assert shape.ffn <= source.ffn
    assert shape.kv_heads <= source.kv_heads
    assert shape.heads // shape.kv_heads <= source.heads // source.kv_heads


def test_default_axes() -> None:
    space = space_of()
    assert space.layers.values == tuple(range(1, 9))
    assert space.attention == ((1, 1), (2, 2), (3, 3), (4, 4))
    assert space.ffn.values == tuple(range(32, 353, 32))
    assert space.hidden.values == (128,)
    assert space.lookahead.values == tuple(range(1, 9))
    assert space.max_lookahead == 8


def test_default_vocabulary_is_whole_and_of_a_large_one_a_quarter_too() -> None:
    assert space_of().draft_vocab.values == (2048,)
    llama2 = DraftShape(32, 32, 32, 128, 4096, 11008, 32000)
    assert space_of(llama2).draft_vocab.values == (8000, 32000)
    assert space_of(DraftShape(80, 64, 8, 128, 8192, 28672, 128256)).draft_vocab.values == (32064, 128256)
    assert space_of(llama2, draft_vocab="full").draft_vocab.values == (32000,)


@pytest.mark.parametrize(
    ("text", "heads"),
    [
        ("full", [None]),
        ("full,8192", [None]),  # no smaller than the whole: the same
        ("2048", [None]),
        ("2047,full", [2047, None]),
        (" 512 , full,128,512", [128, 512, None]),
        ("256", [256]),
    ],
)
def test_sizes_of_the_draft_vocabulary(text: str, heads: list[int | None]) -> None:
    space = space_of(MHA, layers="1", heads="4", ffn="352", precisions=(Precision.FP32,), draft_vocab=text)
    assert [build.shape.draft_vocab for build in all_builds(space)] == heads
    assert space.size == len(heads)
    assert space.smallest.draft_vocab == heads[0]
    assert {seed.shape.draft_vocab for seed in space.seeds()} == set(heads)


@pytest.mark.parametrize("text", ["", "full,", "0,full", "-4", "8k", "full 512", "1.5", "128:512"])
def test_a_draft_vocabulary_that_makes_no_sense_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadRequest, match=f"--draft-vocab {text}: write full, numbers of tokens") as caught:
        space_of(draft_vocab=text)
    assert "\n" not in str(caught.value)


def test_a_smaller_vocabulary_adds_one_seed_a_program() -> None:
    assert len(space_of(draft_vocab="full,512,128").seeds()) == len(space_of().seeds()) + 2 * len(BOTH)


def test_default_axes_of_a_deep_source_stay_shallow() -> None:
    assert space_of(DraftShape(80, 64, 8, 128, 8192, 28672, 128256)).layers.values[-1] == 12


def test_seeds_are_wide_and_shallow_at_every_precision() -> None:
    *seeds, last = space_of().seeds()
    seeds = [seed for seed in seeds if seed.shape != last.shape]
    assert last.shape == space_of().deepest
    assert {seed.shape.layers for seed in seeds} == {1, 2, 3}
    assert {seed.shape.heads for seed in seeds} == {4}
    assert {seed.shape.ffn for seed in seeds} == {192, 352}
    assert {seed.build.precision for seed in seeds} == set(BOTH)


@pytest.mark.parametrize(
    ("source", "ranges", "attention"),
    [
        (GQA, {}, ((4, 1), (8, 2))),
        (MQA, {}, ((4, 1),)),
        (MHA, {"heads": "3:3"}, ((3, 3),)),
        (MHA, {"heads": "1,4"}, ((1, 1), (4, 4))),
        (GQA, {"heads": "2,4,8"}, ((2, 2), (4, 2), (8, 2))),
        (GQA, {"kv_heads": "1"}, ((1, 1), (2, 1), (3, 1), (4, 1))),
        (GQA, {"heads": "4", "kv_heads": "1:2"}, ((4, 1), (4, 2))),
        (GQA, {"heads": "3", "kv_heads": "1"}, ((3, 1),)),
    ],
)
def test_heads_keep_whole_groups(
    source: DraftShape, ranges: dict[str, str], attention: tuple[tuple[int, int], ...]
) -> None:
    assert space_of(source, **ranges).attention == attention


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"heads": "5,7"}, r"--heads 5,7: the heads do not divide into groups of at most 4, .*8 heads, 2 kv heads"),
        ({"heads": "8", "kv_heads": "1"}, r"--heads 8 --kv-heads 1: the heads do not divide"),
        ({"heads": "9"}, "--heads 9: the source has only 8"),
        ({"kv_heads": "3"}, "--kv-heads 3: the source has only 2"),
        ({"layers": "7:9"}, "--layers 7:9: the source has only 6"),
        ({"ffn": "1024"}, "--ffn 1024: the source has only 512"),
        ({"hidden": "256"}, "--hidden 256: the source has only 128"),
        ({"lookahead": "0"}, "--lookahead 0 alone leaves nothing to search"),
        ({"layers": "9:3"}, "the range is empty"),
    ],
)
def test_impossible_ranges_are_refused(ranges: dict[str, str], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        space_of(GQA, **ranges)


def test_values_beyond_the_source_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        space = space_of(GQA, layers="4:12", ffn="256,512,2048")
    assert space.layers.values == (4, 5, 6)
    assert space.ffn.values == (256, 512)
    assert [record.getMessage() for record in caplog.records] == [
        "--layers 4:12: values above the source's 6 are left out",
        "--ffn 256,512,2048: values above the source's 512 are left out",
    ]


def test_no_warning_where_everything_fits(caplog: pytest.LogCaptureFixture) -> None:
    space_of(GQA, layers="1:6", heads="4,8", ffn="128:512:128")
    assert not caplog.records


def test_the_target_alone_is_no_value_of_the_lookahead_axis() -> None:
    assert space_of(lookahead="0:8:4").lookahead.values == (4, 8)
    assert space_of(lookahead="0,3").lookahead.values == (3,)


def test_what_is_named_twice_is_searched_once() -> None:
    space = make_space(MHA, Ranges(layers="1"), ("a", "a"), (Precision.INT8, Precision.INT8))
    assert space.backends == ("a",)
    assert len(set(all_builds(space))) == space.size == len(all_builds(space))


def test_a_program_that_its_backend_lacks_is_no_part_of_the_space() -> None:
    supported = {"a": set(BOTH), "b": {Precision.FP32}}
    space = make_space(MHA, Ranges(layers="1"), ("a", "b"), BOTH, supported)
    assert space.programs == (("a", Precision.FP32), ("b", Precision.FP32), ("a", Precision.INT8))
    assert space.params(space.seeds()[0])["backend"] == "a/fp32"
    assert len(set(all_builds(space))) == space.size == len(all_builds(space))
