from __future__ import annotations

import pytest

from featbank.errors import HeadError
from featbank.heads import memory
from featbank.heads.memory import available_memory, check_memory, fit_bytes, parse_size, shown_size


def test_a_kernels_matrix_grows_with_the_square_of_the_rows() -> None:
    assert fit_bytes("svm", 10_000, 100) - fit_bytes("centroid", 10_000, 100) == 2 * 8 * 10_000**2
    assert fit_bytes("logreg", 20_000, 512) == 2 * fit_bytes("logreg", 10_000, 512)


def test_what_does_not_fit_is_refused_with_the_estimate_and_the_way_out() -> None:
    check_memory(100, "a head", "use another", available=100)
    with pytest.raises(HeadError) as caught:
        check_memory(3 << 30, "svm on 9 images", "use linear-svm", available=1 << 30)
    assert str(caught.value) == (
        "svm on 9 images needs 3.0 GB of memory, and 1.0 GB are left; use linear-svm."
    )


def test_a_containers_limit_counts_without_its_cached_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit, used, stat = memory._CGROUPS[0]
    files = {limit: "1000\n", used: "900\n", stat: "anon 5\ninactive_file 300\n"}
    files["/proc/meminfo"] = "MemTotal: 9 kB\nMemAvailable:       7 kB\n"
    monkeypatch.setattr(memory, "_text", lambda path: files.get(path, ""))
    assert available_memory() == 400
    files[limit] = "max\n"
    assert available_memory() == 7 << 10


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 << 30), ("1.5 GiB", 3 << 29), ("512m", 512 << 20), ("100B", 100), (4096, 4096)],
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4XB", "-1GB", "GB", "4", 0, True, 1.5e-300])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="4GB or 512MB"):
        parse_size(text)


def test_sizes_are_shown_to_two_or_three_digits() -> None:
    shown = [shown_size(n) for n in (5, 2048, 3.5 * (1 << 20), 4096 << 30)]
    assert shown == ["5 bytes", "2.0 kB", "3.5 MB", "4,096 GB"]
