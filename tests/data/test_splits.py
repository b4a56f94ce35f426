import collections

import pytest

from featbank.data.splits import make_split
from featbank.errors import DataError

NAMES = [f"{c}/{i:04}.jpg".encode() for c in ("cat", "dog", "owl") for i in range(2000)]
LABELS = [name.decode().split("/")[0] for name in NAMES]
GROUPS = [f"patient {i // 7}" for i in range(len(NAMES))]
EVERY = ["random:70/15/15", "random:80/20", "kfold:5", "group:70/15/15"]


def split(spec, names=NAMES, labels=LABELS, **options):
    if spec.startswith("group"):
        options.setdefault("groups", GROUPS)
    return make_split(spec, names, labels, **options)


def test_random_shares_hold_in_every_class():
    got = split("random:70/15/15")
    for label in set(LABELS):
        counts = collections.Counter(s for s, x in zip(got, LABELS, strict=True) if x == label)
        assert counts["train"] == pytest.approx(1400, abs=80)
        assert counts["valid"] == pytest.approx(300, abs=60)
        assert counts["test"] == pytest.approx(300, abs=60)


def test_two_shares_are_train_and_test():
    counts = collections.Counter(split("random:80/20"))
    assert set(counts) == {"train", "test"}
    assert split("random:0.8/0.2") == split("random:80/20")


def test_kfold_names_its_folds_and_fills_them_evenly():
    counts = collections.Counter(split("kfold:5"))
    assert set(counts) == {f"fold{i}" for i in range(5)}
    assert min(counts.values()) > 1050


@pytest.mark.parametrize("spec", EVERY)
def test_an_image_stays_where_it_is_when_others_come_or_go(spec):
    whole = dict(zip(NAMES, split(spec), strict=True))
    some = slice(100, None, 3)
    names = NAMES[some][::-1]
    groups = GROUPS[some][::-1] if spec.startswith("group") else None
    fewer = make_split(spec, names, LABELS[some][::-1], groups=groups)
    assert fewer == [whole[name] for name in names]


@pytest.mark.parametrize("spec", EVERY)
def test_the_seed_decides(spec):
    assert split(spec) == split(spec)
    assert split(spec) != split(spec, seed=1)


def test_the_assignment_is_the_same_in_every_release():
    names = [b"a/1.jpg", b"a/2.jpg", b"b/\xff.jpg", b"b/4.jpg"]
    labels = ["a", "a", "b", None]
    assert make_split("kfold:10", names, labels) == ["fold2", "fold3", "fold3", "fold2"]


@pytest.mark.parametrize("spec", ["group:70/15/15", "random:70/15/15", "kfold:4"])
def test_groups_stay_together(spec):
    got = split(spec, groups=GROUPS)
    assert len(set(zip(GROUPS, got, strict=True))) == len(set(GROUPS))


def test_an_image_without_a_group_is_a_group_by_itself():
    got = make_split("group:50/50", NAMES, LABELS, groups=[None] * 5999 + ["g"])
    assert got[:-1] == make_split("random:50/50", NAMES, LABELS)[:-1]


def test_first_n_counts_each_class_by_sorted_name():
    names, labels = NAMES[::-1], LABELS[::-1]
    got = dict(zip(names, make_split("first:60/10", names, labels), strict=True))
    for label in set(LABELS):
        words = [got[name] for name in NAMES if name.startswith(label.encode())]
        assert words == ["train"] * 60 + ["valid"] * 10 + ["test"] * 1930
    assert make_split("first:1", [b"b", b"a"], ["x", "x"]) == ["test", "train"]


def test_unlabelled_images_get_no_split_by_first_and_one_by_chance():
    assert make_split("first:1", [b"a", b"b"], [None, "x"]) == [None, "train"]
    assert make_split("random:50/50", [b"a"], [None])[0] in ("train", "test")


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
