import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from featbank.data.sources import (
    Source,
    find_images,
    load_class_names,
    open_source,
    scan,
    scan_all,
)
from featbank.errors import DataError, SourceNotFound


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Make files of these names (their bytes are no images: a scan never looks)."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as stream:
                stream.write(b"x" * len(name))
        return tmp_path

    return make


def rows(listing):
    return list(zip(listing.names, listing.label.tolist(), listing.split.tolist(), strict=True))


def again(source):
    """Return a source as it comes back from a bank's sources.json."""
    return Source.from_dict(json.loads(json.dumps(source.to_dict())))


# --- folders ---


def test_a_folder_of_classes_is_labelled_by_its_first_level(tree):
    root = tree(
        "dog/b.JPG", "dog/young/a.png", "cat/c.webp", "stray.tif", "cat/notes.txt", "cat/png"
    )
    source = open_source(root)
    assert (source.kind, source.name) == ("folder", root.name)
    assert rows(scan(source)) == [
        (b"cat/c.webp", "cat", None),
        (b"dog/b.JPG", "dog", None),
        (b"dog/young/a.png", "dog", None),
        (b"stray.tif", None, None),
    ]


@pytest.mark.parametrize("valid", ["valid", "val", "validation", "Val"])
def test_split_folders_give_splits_and_labels(tree, valid):
    root = tree(
        "train/cat/1.jpg", "train/dog/deep/2.jpg", f"{valid}/cat/3.jpg", "test/4.jpg", "5.jpg"
    )
    source = open_source(root)
    assert source.kind == "split-folders"
    assert sorted(rows(scan(source))) == sorted(
        [
            (b"test/4.jpg", None, "test"),
            (b"train/cat/1.jpg", "cat", "train"),
            (b"train/dog/deep/2.jpg", "dog", "train"),
            (f"{valid}/cat/3.jpg".encode(), "cat", "valid"),
        ]
    )


def test_a_test_folder_may_have_classes_too(tree):
    root = tree("train/cat/1.jpg", "test/cat/2.jpg")
    assert rows(scan(open_source(root)))[0] == (b"test/cat/2.jpg", "cat", "test")


def test_two_folders_for_one_split_are_refused(tree):
    root = tree("train/a/1.jpg", "val/a/2.jpg", "valid/a/3.jpg")
    with pytest.raises(DataError, match="val and valid both mean"):
        scan(open_source(root))


def test_a_class_called_train_is_a_class(tree):
    root = tree("train/1.jpg", "bus/2.jpg", "car/3.jpg")
    assert open_source(root).kind == "folder"


def test_splits_next_to_other_folders_need_a_word(tree):
    root = tree("train/a/1.jpg", "test/a/2.jpg", "extra/3.jpg")
    with pytest.raises(DataError, match="extra"):
        open_source(root)
    assert len(scan(open_source(root, kind="split-folders"))) == 2
    assert set(scan(open_source(root, kind="folder")).label.tolist()) == {"train", "test", "extra"}


def test_a_flat_folder_has_no_labels(tree):
    root = tree("b.jpg", "a.jpg")
    source = open_source(root)
    assert source.kind == "flat"
    assert rows(scan(source)) == [(b"a.jpg", None, None), (b"b.jpg", None, None)]
    nested = tree("c/d.jpg")
    assert scan(open_source(nested, kind="flat")).label.tolist() == [None] * 3


def test_stat_is_what_the_file_system_says(tree):
    root = tree("a/1.jpg", "b/22.jpg")
    before = time.time_ns()
    listing = scan(open_source(root))
    for i, name in enumerate(listing.names):
        state = os.stat(os.path.join(os.fsencode(root), name))
        assert (listing.size[i], listing.mtime[i], listing.ctime[i], listing.inode[i]) == (
            state.st_size,
            state.st_mtime_ns,
            state.st_ctime_ns,
            state.st_ino,
        )
        assert before <= listing.scanned[i] <= time.time_ns()
    assert listing.size.dtype == np.int64


def test_hidden_files_and_folders_are_skipped_unless_asked(tree):
    root = tree("a/1.jpg", "a/._1.jpg", ".cache/2.jpg", "a/.x/3.jpg")
    assert scan(open_source(root)).names == [b"a/1.jpg"]
    assert len(scan(open_source(root, hidden=True))) == 4


def test_linked_folders_are_skipped_unless_asked_and_loops_end(tree):
    root = tree("a/1.jpg", "b/2.jpg", "b/deep/3.jpg")
    (root / "a" / "up").symlink_to(root)
    (root / "b" / "self").symlink_to("self")
    (root / "aa").symlink_to(root / "b")
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    (outside / "4.jpg").write_bytes(b"x")
    (root / "c").symlink_to(outside)
    assert scan(open_source(root)).names == [b"a/1.jpg", b"b/2.jpg", b"b/deep/3.jpg"]
    followed = scan(open_source(root, follow_links=True))
    assert followed.names == [b"a/1.jpg", b"b/2.jpg", b"b/deep/3.jpg", b"c/4.jpg"]
    assert followed.label.tolist() == ["a", "b", "b", "c"]


def test_linked_files_are_taken_and_links_to_nothing_are_listed_as_missing(tree):
    root = tree("a/1.jpg")
    (root / "a" / "2.jpg").symlink_to("1.jpg")
    (root / "a" / "3.jpg").symlink_to("gone.jpg")
    assert scan(open_source(root)).size.tolist() == [7, 7, -1]


def test_names_that_are_no_text_stay_what_they_are(tree):
    root = tree(b"caf\xe9/\xff\xfe.jpg", "日本/山.png")
    source = again(open_source(root))
    listing = scan(source)
    assert listing.names == [b"caf\xe9/\xff\xfe.jpg", "日本/山.png".encode()]
    assert [os.fsencode(label) for label in listing.label.tolist()] == [b"caf\xe9", "日本".encode()]
    odd = open_source(os.path.join(os.fsencode(root), b"caf\xe9"))
    assert scan(again(odd)).names == [b"\xff\xfe.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_may_not_be_listed_is_logged_and_left_out(tree, caplog):
    root = tree("a/1.jpg", "b/2.jpg")
    (root / "b").chmod(0)
    try:
        assert scan(open_source(root)).names == [b"a/1.jpg"]
    finally:
        (root / "b").chmod(0o700)
    assert "b is left out" in caplog.text


def test_folders_deeper_than_a_path_can_be_written_end_nothing(tree, caplog):
    root = tree("a/1.jpg")
    here = os.getcwd()
    os.chdir(root / "a")
    for _ in range(30):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    os.chdir(here)
    assert scan(open_source(root)).names == [b"a/1.jpg"]
    assert "left out" in caplog.text


def test_an_empty_folder_says_what_was_looked_for(tree):
    root = tree("a/notes.txt")
    with pytest.raises(DataError, match=r"no images.*\.jpg"):
        scan(open_source(root))


def test_what_is_not_there_is_said_to_be_not_there(tmp_path):
    with pytest.raises(SourceNotFound, match="nowhere"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        scan(Source("x", "folder", str(tmp_path / "gone")))
    with pytest.raises(FileNotFoundError):
        scan(Source("x", "csv", str(tmp_path), table=str(tmp_path / "gone.csv")))


def test_a_single_image_is_no_source(tree):
    root = tree("a.jpg", "b.xyz")
    with pytest.raises(DataError, match="give the folder"):
        open_source(root / "a.jpg")
    with pytest.raises(DataError, match="expected a folder, or a table"):
        open_source(root / "b.xyz")


# --- classes ---


def test_classes_and_exclude_choose(tree):
    root = tree("cat/1.jpg", "dog/2.jpg", "owl/3.jpg", "4.jpg")
    assert scan(open_source(root, classes=["cat", "owl"])).names == [b"cat/1.jpg", b"owl/3.jpg"]
    assert scan(open_source(root, exclude=["cat"])).names == [b"4.jpg", b"dog/2.jpg", b"owl/3.jpg"]
    both = scan(again(open_source(root, classes=["cat", "dog"], exclude="dog")))
    assert (both.names, both.label.vocabulary) == ([b"cat/1.jpg"], ("cat",))
    with pytest.raises(DataError, match=r"leave no image of .*widen one of them"):
        scan(open_source(root, classes="cat", exclude="cat"))


def test_an_unknown_class_suggests_the_nearest(tree):
    root = tree("penguin/1.jpg", "dog/2.jpg")
    with pytest.raises(DataError, match="did you mean penguin"):
        scan(open_source(root, classes=["pengin"]))
    with pytest.raises(DataError, match="did you mean dog"):
        scan(open_source(root, exclude=["dogs"]))


def test_a_class_need_be_in_one_of_several_sources_only(tree):
    root = tree("one/cat/1.jpg", "one/dog/2.jpg", "two/owl/3.jpg")

    def look(**options):
        return scan_all([open_source(root / name, **options) for name in ("one", "two")])

    assert [part.names for part in look(exclude="dog")] == [[b"cat/1.jpg"], [b"owl/3.jpg"]]
    with pytest.raises(
        DataError, match="no class 'dogs' in any of the 2 sources; did you mean dog"
    ):
        look(exclude="dogs")
    with pytest.raises(DataError, match=r"leave no image of .*two; widen one of them, or leave"):
        look(classes=["cat"])
    named = look(class_names={"cat": "Felis"}, classes=["Felis", "owl"])
    assert [part.label.tolist() for part in named] == [["Felis"], ["owl"]]


def test_class_names_make_labels_readable(tree):
    root = tree("1/a.jpg", "2/b.jpg", "3/c.jpg", "d.jpg")
    (root / "names.json").write_text('{"1": "rose", "2": "lily", "3": "rose", "9": "fern"}')
    source = again(open_source(root, class_names=root / "names.json"))
    assert scan(source).label.tolist() == ["rose", "lily", "rose", None]
    assert scan(open_source(root, class_names={"2": "lily"})).label.tolist() == [
        "1",
        "lily",
        "3",
        None,
    ]
    chosen = open_source(root, class_names=root / "names.json", classes=["rose"], exclude=["3"])
    assert scan(chosen).names == [b"1/a.jpg"]


def test_class_names_that_fit_nothing_are_refused(tree):
    root = tree("cat/a.jpg")
    with pytest.raises(DataError, match="fit none of the classes, which are cat"):
        scan(open_source(root, class_names={"1": "rose"}))


@pytest.mark.parametrize("text", ["[1]", '{"a": 1}', "{", "null", "[" * 100_000])
def test_a_file_that_holds_no_class_names_is_refused(tmp_path, text):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(DataError, match="class names"):
        load_class_names(tmp_path / "names.json")


# --- sequences ---


def test_a_list_of_paths_with_labels(tree):
    root = tree("x/1.jpg", "y/2.jpg")
    source = again(open_source(["y/2.jpg", Path("x/1.jpg")], labels=["b", None]))
    assert (source.kind, source.name) == ("list", "list")
    os.chdir("/")  # the source knows where it was opened
    assert rows(scan(source)) == [(b"x/1.jpg", None, None), (b"y/2.jpg", "b", None)]
    assert source.root == str(root)


def test_pairs_and_numbers_as_labels(tree):
    tree("1.jpg", "2.jpg")
    source = open_source([("1.jpg", np.int64(3)), ("2.jpg", float("nan"))], name="mine")
    assert (source.name, scan(source).label.tolist()) == ("mine", ["3", None])


def test_files_outside_the_root_keep_their_whole_path(tree):
    root = tree("in/1.jpg", "out/2.jpg")
    listing = scan(open_source([root / "in/1.jpg", root / "out/2.jpg"], root=root / "in"))
    assert listing.names == [os.fsencode(root / "out/2.jpg"), b"1.jpg"]
    assert (listing.size > 0).all()


def test_a_torchvision_style_data_set(tree):
    root = tree("cat/1.jpg", "dog/2.jpg")

    class Folder:
        samples = [(str(root / "cat/1.jpg"), 0), (str(root / "dog/2.jpg"), 1)]  # noqa: RUF012
        classes = ["cat", "dog"]  # noqa: RUF012

    dataset = Folder()
    dataset.root = str(root)
    assert rows(scan(open_source(dataset))) == [
        (b"cat/1.jpg", "cat", None),
        (b"dog/2.jpg", "dog", None),
    ]


def test_a_data_set_with_a_relative_root_is_found_from_here(tree, monkeypatch):
    root = tree("sp/cat/1.jpg", "sp/dog/2.jpg", "cat/1.jpg")
    monkeypatch.chdir(root)

    class Folder:
        root = "sp"
        samples = [("sp/cat/1.jpg", 0), ("sp/dog/2.jpg", 1)]  # noqa: RUF012
        classes = ["cat", "dog"]  # noqa: RUF012

    assert scan(open_source(Folder())).names == [b"cat/1.jpg", b"dog/2.jpg"]
    Folder.root = "./sp/"
    assert scan(open_source(Folder())).names == [b"cat/1.jpg", b"dog/2.jpg"]
    Folder.samples = [("cat/1.jpg", 0), ("dog/2.jpg", 1)]  # relative to the root
    assert scan(open_source(Folder())).names == [b"cat/1.jpg", b"dog/2.jpg"]


def test_a_dataframe_is_a_table(tree):
    pandas = pytest.importorskip("pandas")
    tree("1.jpg", "2.jpg")
    frame = pandas.DataFrame(
        {
            "file": ["2.jpg", "1.jpg"],
            "label": ["a", None],
            "split": ["val", pandas.NA],
            "age": [3, 4],
        }
    )
    listing = scan(again(open_source(frame, columns={"path": "file"})))
    assert rows(listing) == [(b"1.jpg", None, None), (b"2.jpg", "a", "valid")]
    assert listing.extra["age"].tolist() == ["4", "3"]
    with pytest.raises(DataError, match=r"'path'.*'file', 'label'"):
        open_source(frame)


@pytest.mark.parametrize(
    ("location", "labels", "reason"),
    [
        ([], None, "empty"),
        (["a.jpg"], ["x", "y"], "1 paths and 2 labels"),
        ([("a.jpg", "x")], ["y"], "either paths"),
        ([("a.jpg", "x"), "b.jpg"], None, "either paths"),
        ([3], None, "expected paths"),
        ([""], None, "row 1 has no path"),
        (7, None, "int is no source"),
    ],
)
def test_what_is_no_list_of_images_is_refused(location, labels, reason):
    with pytest.raises(DataError, match=reason):
        open_source(location, labels=labels)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": "foldr"}, "did you mean folder"),
        ({"kind": "csv"}, "is a folder, which is no source of kind csv"),
        ({"kind": "list"}, "no source of kind list"),
        ({"labels": ["a"]}, "a folder or a table has its own"),
        ({"root": "x"}, "for tables"),
        ({"columns": {"lable": "x"}}, "did you mean label"),
        ({"delimiter": ",,"}, "one character"),
    ],
)
def test_options_that_do_not_fit_a_folder_are_refused(tree, options, reason):
    with pytest.raises(DataError, match=reason):
        open_source(tree("a/1.jpg"), **options)


# --- find_images ---


def test_find_images_expands_folders_and_keeps_files(tree):
    tree("new/b.jpg", "new/a.png", "new/x.txt", "odd.bin", "new/.h.jpg")
    got = find_images(["odd.bin", "new", Path("new/a.png"), b"odd.bin"])
    assert got == [b"odd.bin", b"new/a.png", b"new/b.jpg"]
    assert find_images("new") == [b"new/a.png", b"new/b.jpg"]
    with pytest.raises(SourceNotFound):
        find_images(["gone.jpg"])
    (Path("empty")).mkdir()
    with pytest.raises(DataError, match="no images in empty"):
        find_images(["empty"])
    for images in ([np.zeros((2, 2, 3), np.uint8)], 3):
        with pytest.raises(DataError, match=r"expected paths of image.*TransferClassifier takes"):
            find_images(images)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 1.5},
        {"name": "x" * 300},
        {"name": ""},
        {"root": None},
        {"table": 7},
        {"classes": [1, 2]},
        {"exclude": [None]},
        {"columns": {"path": float("nan")}},
        {"class_names": ["a"]},
        {"hidden": "yes"},
        {"listed": {"path": ["a"], "label": [], "split": [], "group": [], "extra": {}}},
        {"listed": {"path": [1], "label": [None], "split": [None], "group": [None], "extra": {}}},
        {"colour": "green"},
    ],
)
def test_what_is_no_source_is_refused(changes):
    plain = {"name": "birds", "kind": "flat", "root": "/images"}
    assert Source.from_dict(plain).name == "birds"
    with pytest.raises(DataError, match="not a source that featbank can read"):
        Source.from_dict({**plain, **changes})
