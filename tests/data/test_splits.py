import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank.data.splits import SplitSpec, make_split
from featbank.errors import DataError

NAMES = [f"{c}/{i:04}.jpg".encode() for c in ("cat", "dog", "owl") for i in range(2000)]
LABELS = [name.decode().split("/")[0] for name in NAMES]
GROUPS = [f"patient {i // 7}" for i in range(len(NAMES))]
EVERY = ["random:70/15/15", "random:80/20", "kfold:5", "group:70/15/15"]

# fmt: off
PINNED = [
    "test", "test", "train", "train", "test", "test", "test", "train", "train", "test", "train",
    "train",
]
# fmt: on
QUICKLY = settings(deadline=None, max_examples=80, database=None)


def split(spec, names=NAMES, labels=LABELS, **options):
    if spec.startswith("group"):
        options.setdefault("groups", GROUPS)
    return make_split(spec, names, labels, **options)


def per_class(got, labels=LABELS):
    return {
        label: collections.Counter(s for s, x in zip(got, labels, strict=True) if x == label)
        for label in set(labels) - {None}
    }


@pytest.mark.parametrize("spec", ["random:70/15/15", "random:80/20", "kfold:7", "kfold:3"])
def test_shares_are_exact_in_every_class(spec):
    got = split(spec)
    share = shares_of(spec)
    for counts in per_class(got).values():
        for name, part in share.items():
            assert abs(counts[name] - 2000 * part) < 1
    assert split("random:0.8/0.2") == split("random:80/20")


def test_twelve_photographs_a_class_are_tested_in_every_class():
    labels = [label for label in ("cat", "dog", "owl") for _ in range(12)]
    names = [f"{i}.jpg".encode() for i in range(36)]
    for seed in range(20):
        got = make_split("random:70/15/15", names, labels, seed=seed)
        for counts in per_class(got, labels).values():
            assert counts["train"] in (8, 9)
            assert counts["valid"] in (1, 2)
            assert counts["test"] in (1, 2)
        assert collections.Counter(got)["test"] in (5, 6)


def test_classes_too_small_for_every_split_share_them_out():
    labels = [f"class {i // 2}" for i in range(200)]
    got = make_split("random:70/15/15", [f"{i}".encode() for i in range(200)], labels)
    assert collections.Counter(got) == {"train": 140, "valid": 30, "test": 30}
    assert all(counts["train"] >= 1 for counts in per_class(got, labels).values())


@pytest.mark.parametrize("spec", EVERY)
def test_the_seed_decides(spec):
    assert split(spec) == split(spec)
    assert split(spec) != split(spec, seed=1)


def test_the_assignment_is_the_same_in_every_release():
    names = [f"{i}.jpg".encode() for i in range(12)]
    assert make_split("random:50/50", names, ["a", "b"] * 6) == PINNED


def test_group_shares_are_close_and_classes_balanced():
    chance = np.random.default_rng(0)
    sizes = chance.integers(1, 30, 120)
    groups = [f"patient {i}" for i, size in enumerate(sizes) for _ in range(size)]
    rates = chance.beta(1, 1, len(sizes))
    labels = ["ab"[int(chance.random() < rates[int(g.split()[1])])] for g in groups]
    names = [f"{i}".encode() for i in range(len(groups))]
    for spec in ("group:70/15/15", "kfold:5"):
        got = make_split(spec, names, labels, groups=groups)
        assert len(set(zip(groups, got, strict=True))) == len(sizes)
        for label, counts in per_class(got, labels).items():
            for name, share in shares_of(spec).items():
                wanted = labels.count(label) * share
                assert counts[name] == pytest.approx(wanted, abs=max(3, 0.02 * len(labels)))


def test_relabelled_images_stay_and_joined_ones_come_together():
    names = [f"{i}".encode() for i in range(40)]
    labels = ["a", "b"] * 20
    made = dict(zip(names, make_split("random:50/50", names, labels), strict=True))
    got = make_split("random:50/50", names, ["b", *labels[1:]], made=made)
    assert got == list(made.values())
    groups = ["g"] * 3 + [None] * 37
    got = make_split("random:50/50", names, labels, groups=groups, made=made)
    most = collections.Counter(list(made.values())[:3]).most_common(1)[0][0]
    assert got == [most] * 3 + list(made.values())[3:]


def shares_of(spec):
    parsed = SplitSpec.parse(spec)
    return dict(zip(parsed.splits, (p / sum(parsed.parts) for p in parsed.parts), strict=True))


SPECS = st.sampled_from(["random:70/15/15", "random:80/20", "random:29/71", "kfold:2", "kfold:5"])
SEEDS = st.integers(0, 3)
CLASSES = st.lists(st.sampled_from("aaaabbc"), min_size=1, max_size=60)


def keys_of(n):
    return [f"image {i}".encode() for i in range(n)]


@QUICKLY
@given(spec=SPECS, labels=CLASSES, seed=SEEDS, copied=st.data())
def test_every_class_is_exact_to_one_image_and_order_does_not_matter(spec, labels, seed, copied):
    keys = keys_of(len(labels))
    copies = copied.draw(st.lists(st.sampled_from(range(len(labels))), max_size=10))
    rows = copied.draw(st.permutations([*range(len(labels)), *copies]))
    names = [f"{i}".encode() for i in range(len(rows))]
    got = make_split(
        spec, names, [labels[r] for r in rows], keys=[keys[r] for r in rows], seed=seed
    )
    split_of = {keys[r]: name for r, name in zip(rows, got, strict=True)}
    assert [split_of[keys[r]] for r in rows] == got  # copies are together
    assert make_split(spec, keys, labels, seed=seed) == [split_of[key] for key in keys]
    for label, counts in per_class([split_of[key] for key in keys], labels).items():
        for name, share in shares_of(spec).items():
            assert abs(counts[name] - labels.count(label) * share) < 1 + 1e-6


@QUICKLY
@given(spec=SPECS, parts=st.lists(CLASSES, min_size=2, max_size=5), seed=SEEDS)
def test_images_that_are_added_move_no_other_and_shares_stay_exact(spec, parts, seed):
    made: dict[bytes, str] = {}
    labels: list[str] = []
    for part in parts:
        labels += part
        keys = keys_of(len(labels))
        got = dict(zip(keys, make_split(spec, keys, labels, seed=seed, made=made), strict=True))
        assert {key: got[key] for key in made} == made
        made = got
        for label, counts in per_class(list(got.values()), labels).items():
            for name, share in shares_of(spec).items():
                assert abs(counts[name] - labels.count(label) * share) < 1 + 1e-6


@QUICKLY
@given(
    spec=SPECS,
    sizes=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), min_size=1, max_size=30),
    seed=SEEDS,
)
def test_groups_of_one_class_are_exact_to_the_largest(spec, sizes, seed):
    labels = [label for label, size in sizes for _ in range(size)]
    groups = [f"{i}" for i, (_, size) in enumerate(sizes) for _ in range(size)]
    got = make_split(spec, keys_of(len(labels)), labels, groups=groups, seed=seed)
    assert len(set(zip(groups, got, strict=True))) == len(sizes)
    for label, counts in per_class(got, labels).items():
        largest = max(size for own, size in sizes if own == label)
        for name, share in shares_of(spec).items():
            assert abs(counts[name] - labels.count(label) * share) < largest + 1e-6


@QUICKLY
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 12), st.sampled_from(["g", "h", "i", None]), st.sampled_from("abc")
        ),
        min_size=2,
        max_size=40,
    ),
    spec=SPECS,
    known=st.dictionaries(st.integers(0, 12), st.sampled_from(["train", "test", "fold1"])),
)
def test_units_never_straddle(rows, spec, known):
    """Through copies, through groups, and through copies that are in several groups."""
    names = [f"{i}".encode() for i in range(len(rows))]
    keys, groups, labels = zip(*((f"{k}".encode(), g, x) for k, g, x in rows), strict=True)
    made = {f"{k}".encode(): split for k, split in known.items()}
    got = make_split(spec, names, labels, keys=keys, groups=groups, made=made)
    assert None not in got
    assert len(set(zip(keys, got, strict=True))) == len(set(keys))
    grouped = {pair for pair in zip(groups, got, strict=True) if pair[0] is not None}
    assert len(grouped) == len({group for group, _ in grouped})


def test_first_n_counts_each_class_by_sorted_name():
    names, labels = NAMES[::-1], LABELS[::-1]
    got = dict(zip(names, make_split("first:60/10", names, labels), strict=True))
    for label in set(LABELS):
        words = [got[name] for name in NAMES if name.startswith(label.encode())]
        assert words == ["train"] * 60 + ["valid"] * 10 + ["test"] * 1930
    assert make_split("first:1", [b"b", b"a"], ["x", "x"]) == ["test", "train"]


def test_unlabelled_images_get_no_split():
    assert make_split("first:1", [b"a", b"b"], [None, "x"]) == [None, "train"]
    assert make_split("random:50/50", [b"a", b"b"], [None, "x"])[0] is None
    assert make_split("random:50/50", [b"a"], [None]) == [None]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("randm:70/15/15", "did you mean random"),
        ("random", "write random:70/15/15"),
        ("random:70", "write random:70/15/15"),
        ("random:70/20/20", "sum to 110"),
        ("random:70/nan/30", "write"),
        ("random:100/0", "write"),
        ("kfold:1", "write kfold:5"),
        ("kfold:2.5", "write kfold:5"),
        ("kfold:five", "write kfold:5"),
        ("first:0/10", "write first:60/10"),
        ("first:60/10/5", "write first:60/10"),
        ("group:70/30", "needs groups"),
        ("", "valid names are"),
    ],
)
def test_a_spec_that_can_not_be_read_says_what_would_be(spec, reason):
    with pytest.raises(DataError, match=reason):
        make_split(spec, [b"a"], ["x"])


def test_first_refuses_to_tear_groups_apart():
    with pytest.raises(DataError, match="tear groups"):
        make_split("first:1", [b"a"], ["x"], groups=["g"])


def test_lengths_must_agree():
    with pytest.raises(DataError, match="2 names"):
        make_split("random:50/50", [b"a", b"b"], ["x"])
