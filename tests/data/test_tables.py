import os

import pytest

from featbank.data.sources import open_source, scan
from featbank.data.tables import split_word
from featbank.errors import DataError


@pytest.fixture
def table(tmp_path):
    """Write a table beside four images, and return its path."""
    for name in ("a.jpg", "b c.jpg", "d,e.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f.jpg").write_bytes(b"x")

    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def column(listing, which):
    return dict(zip(listing.names, getattr(listing, which).tolist(), strict=True))


def test_a_table_gives_labels_splits_groups_and_everything_else(table):
    path = table(
        "path,label,split,group,age,site\n"
        "sub/f.jpg,cat,training,g1,3,\n"
        "a.jpg,dog,Val,,4,Rome\n"
        "./b c.jpg,,fold2,g1,5,Oslo\n"
    )
    source = open_source(path)
    assert (source.kind, source.name, source.root) == ("csv", "table", str(path.parent))
    listing = scan(source)
    assert listing.names == [b"a.jpg", b"b c.jpg", b"sub/f.jpg"]
    assert listing.label.tolist() == ["dog", None, "cat"]
    assert listing.split.tolist() == ["valid", "fold2", "train"]
    assert listing.group.tolist() == [None, "g1", "g1"]
    assert {k: v.tolist() for k, v in listing.extra.items()} == {
        "age": ["4", "5", "3"],
        "site": ["Rome", "Oslo", None],
    }


def test_only_a_path_is_needed(table):
    listing = scan(open_source(table("path\na.jpg\n")))
    assert (listing.label[0], listing.split[0], listing.group[0]) == (None, None, None)


def test_columns_are_named_by_options(table):
    path = table("file,species,label\na.jpg,cat,7\n")
    listing = scan(open_source(path, columns={"path": "file", "label": "species"}))
    assert listing.label.tolist() == ["cat"]
    assert listing.extra["label"].tolist() == ["7"]
    listing = scan(open_source(path, columns={"path": "file", "label": None}))
    assert listing.label.tolist() == [None]


@pytest.mark.parametrize("columns", [{"label": "breed"}, {"split": "fold"}, {"path": "file"}])
def test_a_column_that_is_named_and_not_there_lists_the_header(table, columns):
    path = table("path,label\na.jpg,cat\n")
    with pytest.raises(DataError, match="its columns are 'path', 'label'"):
        scan(open_source(path, columns=columns))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("path;label\na.jpg;cat\n", "t.csv"),
        ("path\tlabel\na.jpg\tcat\n", "t.tsv"),
        ("path,label\na.jpg,cat\n", "t.tsv"),
        ("path\tlabel\r\na.jpg\tcat\r\n", "t.txt"),
        ("\ufeffpath,label\r\n\r\na.jpg,cat\r\n,\r\n", "t.CSV"),
        ("\n\n path , label \n a.jpg , cat ", "t.csv"),
        (",path,label\n0,a.jpg,cat\n", "t.csv"),  # as pandas writes it
        ("path\tlabel\na.jpg\tcat\n".encode("utf-16"), "t.txt"),  # as spreadsheets write it
    ],
)
def test_tables_as_they_come(table, text, name):
    listing = scan(open_source(table(text, name)))
    assert (listing.names, listing.label.tolist()) == ([b"a.jpg"], ["cat"])
    assert listing.extra == {}


def test_another_delimiter_can_be_given(table):
    path = table("path|label\na.jpg|cat\n")
    assert scan(open_source(path, delimiter="|")).label.tolist() == ["cat"]


def test_quotes_hold_delimiters_and_line_ends(table):
    listing = scan(open_source(table('path,label\n"d,e.jpg","a ""b""\nc"\n')))
    assert column(listing, "label") == {b"d,e.jpg": 'a "b"\nc'}


def test_names_that_are_no_text_are_found(table, tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg"), "wb") as stream:
        stream.write(b"x")
    listing = scan(open_source(table(b"path,label\ncaf\xe9.jpg,cat\n")))
    assert (listing.names, listing.size.tolist()) == ([b"caf\xe9.jpg"], [1])


def test_paths_are_relative_to_root_where_one_is_given(table, tmp_path):
    path = table("path\nf.jpg\n")
    listing = scan(open_source(path, root=tmp_path / "sub"))
    assert (listing.names, listing.size.tolist()) == ([b"f.jpg"], [1])


def test_a_file_that_is_not_there_is_listed_as_missing(table):
    listing = scan(open_source(table("path\na.jpg\ngone.jpg\n")))
    assert listing.size.tolist() == [1, -1]


def test_when_no_file_is_there_the_root_is_wrong(table):
    with pytest.raises(DataError, match=r"none of the 2 images.*images/1\.jpg.*root"):
        scan(open_source(table("path\nimages/1.jpg\nimages/2.jpg\n")))


def test_a_path_that_comes_twice_is_one_row(table):
    listing = scan(
        open_source(table("path,label,x\na.jpg,cat,1\n./a.jpg,cat,2\nsub/../a.jpg,cat,3\n"))
    )
    assert (listing.names, listing.extra["x"].tolist()) == ([b"a.jpg"], ["1"])


@pytest.mark.parametrize("second", ["dog,train", "cat,test", ",train"])
def test_a_path_that_contradicts_itself_is_refused_with_both_lines(table, second):
    path = table(f"path,label,split\na.jpg,cat,train\n\nb c.jpg,cat,train\na.jpg,{second}\n")
    with pytest.raises(DataError, match=r"a\.jpg.*line 2.*line 5.*keep one of the rows"):
        scan(open_source(path))


def test_two_labels_of_a_path_can_be_written_in_one_cell(table):
    path = table("path,label\na.jpg,cat\na.jpg,dog\n")
    with pytest.raises(DataError, match=r'one cell \("cat;dog"\) for --multilabel'):
        scan(open_source(path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lists no images"),
        ("path,label\n", "lists no images"),
        ("path,label\na.jpg,cat\nb.jpg\n", "line 3: 1 cells, but the header has 2"),
        ("path,label\na.jpg,cat,x\n", "line 2: 3 cells"),
        ("path,label\n,cat\n", "line 2: the path is empty"),
        ('path,label\na.jpg,"cat\nb c.jpg,dog\n', "quotes"),
        ("path,label,label\na.jpg,x,y\n", "two columns named 'label'"),
        ("a.jpg,cat\nb c.jpg,dog\n", "no column 'path'.*'a.jpg', 'cat'"),
        (b"path\n\0\xff\n", "none of the 1 images"),
        ("path\n" + "x" * 200_000 + "\n", "field larger"),
    ],
)
def test_a_table_that_can_not_be_used_says_where(table, text, reason):
    with pytest.raises(DataError, match=reason):
        scan(open_source(table(text)))


def test_splits_go_by_their_usual_names():
    words = ["TRAIN", "training", "val", "Validation", "dev", "valid", " test", "testing", "Fold A"]
    assert [split_word(word) for word in words] == [
        "train", "train", "valid", "valid", "valid", "valid", "test", "test", "Fold A",
    ]  # fmt: skip
