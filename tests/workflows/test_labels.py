import pytest

from featbank.errors import DataError
from featbank.workflows.labels import Threshold, chosen_labels, chosen_weights, label_column

PATHS = [f"/data/{i}.png" for i in range(6)]


def labels(words, **options):
    return chosen_labels(words, [f"/data/{i}.png" for i in range(len(words))], **options)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("probability>0.5", ("probability", ">", "0.5")),
        ("probability >= 0.5", ("probability", ">=", "0.5")),
        ("a b<1e-3", ("a b", "<", "1e-3")),
        ("type==mono", ("type", "==", "mono")),
        ("type != multi crystal", ("type", "!=", "multi crystal")),
        (">0.5", ("", ">", "0.5")),
        ("count<=-3", ("count", "<=", "-3")),
    ],
)
def test_a_comparison_is_read(text, parts):
    found = Threshold.parse(text)
    assert (found.column, found.sign, found.value) == parts


@pytest.mark.parametrize("text", ["probability", "p=0.5", "p>>1", "p>", "", "p>0.5>0.2", "p><1"])
def test_what_is_no_comparison_is_said(text):
    with pytest.raises(DataError, match=r"like 'probability>0.5'|is no number"):
        Threshold.parse(text)


def test_words_are_not_ordered():
    with pytest.raises(DataError, match="'mono' is no number; compare words with =="):
        Threshold.parse("type>mono")


@pytest.mark.parametrize(
    ("positive", "expected"),
    [
        ("p>0.5", ["p<=0.5", "p<=0.5", "p>0.5", None]),
        ("p>=0.5", ["p<0.5", "p>=0.5", "p>=0.5", None]),
        ("p<0.5", ["p<0.5", "p>=0.5", "p>=0.5", None]),
        ("p<=0.5", ["p<=0.5", "p<=0.5", "p>0.5", None]),
        ("p==0.50", ["p!=0.50", "p==0.50", "p!=0.50", None]),
        ("p!=0.5", ["p!=0.5", "p==0.5", "p!=0.5", None]),
    ],
)
def test_numbers_are_compared_as_numbers(positive, expected):
    found = labels(["0", "0.5", "1e0", None], column="p", positive=positive)
    assert found.y == found.strata == expected


def test_words_are_compared_as_words():
    found = labels(["mono", "poly"], column="type", positive="type==mono")
    assert found.y == ["type==mono", "type!=mono"]


def test_the_labels_own_column_needs_no_name():
    assert label_column(None, ">0.5") is None
    assert labels(["0.2", "0.9"], positive=">0.5").y == ["label<=0.5", "label>0.5"]
    assert (
        label_column("p", ">0.5") == label_column("p", "p>0.5") == label_column(None, "p>1") == "p"
    )
    with pytest.raises(DataError, match="'p', and label names 'q'"):
        label_column("q", "p>1")


def test_values_are_excluded_before_they_are_compared():
    words = ["0.0", "0.33", "1.0", "unsure"]
    found = labels(words, column="p", positive="p>0.5", exclude=["0.33", "unsure"])
    assert found.y == ["p<=0.5", None, "p>0.5", None]


@pytest.mark.parametrize(
    ("words", "positive", "said"),
    [
        (["1", "x"], "p>0.5", "'p' of /data/1.png is 'x'; leave such images out with --exclude"),
        (["1", "nan"], "p>0.5", "is 'nan'"),
        (
            ["1", "2"],
            "p>0.5",
            "makes one class of all images: each has p>0.5. The column holds 1, 2",
        ),
        (["0"] * 3, "p>0.5", "each has p<=0.5"),
    ],
)
def test_what_can_not_be_compared_is_said(words, positive, said):
    with pytest.raises(DataError, match=said):
        labels(words, column="p", positive=positive)


def test_many_numbers_with_fractions_are_no_classes():
    words = [f"{i / 40}" for i in range(40)] * 3
    with pytest.raises(DataError, match=r'40 different numbers .* --positive "p>0.487"'):
        labels(words, column="p")
    assert labels([str(i) for i in range(40)] * 3, column="p").notes == ()
    assert labels([f"{i}.0" for i in range(40)] * 3, column="p").notes == ()


def test_few_numbers_with_fractions_are_classes_with_a_note():
    found = labels(["0.0", "0.333", "0.667", "1.0"] * 5, column="p")
    assert set(found.y) == {"0.0", "0.333", "0.667", "1.0"}
    (note,) = found.notes
    assert "taken as classes without order" in note
    assert '--positive "p>0.5"' in note
    assert labels(["0.0", "0.333", "1.0"] * 5, column="p", exclude=["0.333"]).notes == (
        "5 images of classes not asked for left out.",
    )


def test_a_column_of_names_is_no_label():
    words = [f"cell{i}" for i in range(30)]
    with pytest.raises(
        DataError, match="30 of 30 images are the only one with their label in 'id'"
    ):
        labels(words, column="id")
    assert labels(["a", "b", "c"]).y == ["a", "b", "c"]


def test_labels_that_look_like_several_are_told_of():
    (note,) = labels(["cat;dog", "cat", "dog;bird"]).notes
    assert "--multilabel" in note
    assert labels(["cat;dog", "bird"]).notes == ()


def test_a_cell_is_parted_into_labels():
    found = labels(["cat;dog", " dog ;cat;", None, ";", "bird"], multilabel=";")
    assert found.y == [{"cat", "dog"}, {"cat", "dog"}, None, set(), {"bird"}]
    assert found.strata == ["cat;dog", "cat;dog", None, ";", "bird"]


def test_a_word_for_none_is_excluded_and_its_images_stay():
    found = labels(["a|b", "No Finding", "b", None], multilabel="|", exclude=["No Finding"])
    assert found.y == [{"a", "b"}, set(), {"b"}, None]
    assert labels(["a|b", "c"], multilabel="|", classes=["a", "c"]).y == [{"a"}, {"c"}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"multilabel": "|"}, r"no label in 'label' holds '\|'"),
        ({"multilabel": " "}, "not a blank"),
        ({"multilabel": ";", "positive": "label>1"}, "choose one"),
        (
            {"multilabel": ";", "exclude": ["caat"]},
            "no image has the label 'caat'; did you mean cat",
        ),
        ({"classes": ["caat"]}, "no image has the label 'caat'"),
    ],
)
def test_labels_that_are_not_there_are_said(options, said):
    with pytest.raises(DataError, match=said):
        labels(["cat;dog", "cat", "cat"], **options)


def test_without_any_label_it_is_said_where():
    with pytest.raises(DataError, match="no image has a label"):
        labels([None, None])
    with pytest.raises(DataError, match="no image of the bank has a value in the column 'p'"):
        labels([None, None], column="p")


def test_weights_are_read():
    found = chosen_weights(["2", "0.5", None], ["a", "b", None], PATHS[:3], column="w")
    assert found == [2.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("much", "is 'much'"),
        ("-1", "is '-1'"),
        ("nan", "is 'nan'"),
        ("inf", "is 'inf'"),
        (None, "is empty"),
    ],
)
def test_a_weight_that_is_none_is_named_with_its_image(cell, said):
    with pytest.raises(DataError, match=rf"/data/1.png \(column 'w'\) {said}"):
        chosen_weights(["1", cell], ["a", "a"], PATHS[:2], column="w")


def test_images_left_out_are_counted_by_why() -> None:
    words = ["a", "b", "c", None, "c", None, None]

    assert labels(words).notes == ("3 images without a label left out.",)
    assert labels(words, exclude=["b"]).notes == (
        "3 images without a label left out.",
        "1 image of classes not asked for left out.",
    )
    positive = labels(words, positive="==a", classes=["a", "b"])
    assert positive.notes[1] == "2 images of classes not asked for left out."
    several = labels(["a;b", None, "c"], multilabel=";", exclude=["c"])
    assert several.notes == ("1 image without a label left out.",)
