"""One set of rules for labels of all sources: what is one class, what is refused, what is said."""

import math

import pytest
from pydantic import TypeAdapter

from mmray.samples.labels import LabelColumn, number, shown
from mmray.targets import AnyTarget


def column(kind: str, **settings) -> LabelColumn:
    return LabelColumn("mood", TypeAdapter(AnyTarget).validate_python({"kind": kind, **settings}))


def read(kind: str, cells: list, **settings) -> tuple[list, LabelColumn]:
    labels = column(kind, **settings)
    return [labels.read(cell) for cell in cells], labels


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        ([1, 1.0, "1", "1.0", " 1 "], {"1"}),
        ([-0.0, 0, "0", "-0.0"], {"0"}),
        (["007", "7", "1.5", "v1.0"], {"007", "7", "1.5", "v1.0"}),
        (["happy", " happy", "happy "], {"happy"}),
        ([True, "True"], {"True"}),
        ([None, math.nan, "", "  "], {None}),
    ],
)
def test_one_class_has_one_name_in_every_type(cells, classes):
    found, labels = read("classification", cells)
    assert set(found) == classes
    assert labels.faults() == []


def test_classes_that_the_config_names_are_taken_by_their_names():
    names = ["1.0", "2.0", "none", "nan", "[a]"]
    found, labels = read("classification", names, classes=names)
    assert (found, labels.faults()) == (names, [])


def test_texts_for_missing_values_are_refused_together_with_their_counts():
    cells = ["calm", "nan", "NaN", "None", "nan", "N/A", "null"]
    found, labels = read("classification", cells)
    assert found == ["calm", *[None] * 6]
    (told,) = labels.faults()
    assert "'nan' (2)" in told
    assert "6 cells" in told
    assert all(text in told for text in ("'NaN'", "'None'", "'N/A'", "'null'", "mood", "classes"))
    assert "'nan' (1)" in read("regression", ["1", "nan"])[1].faults()[0]
    assert "'None' (1)" in read("multilabel", [["a"], ["None"]])[1].faults()[0]


@pytest.mark.parametrize("text", ["?", "#VALUE!", "\\N", "undefined", "n.a."])
def test_other_ways_to_write_a_missing_value_are_refused_too(text):
    _, labels = read("classification", ["+", "-", text])
    assert repr(text) in labels.faults()[0]
    assert read("classification", ["+", "-"])[1].faults() == []


@pytest.mark.parametrize("cell", ["1 0 1", "101", "1.0 0.0 1.0", "1/0/1"])
def test_multi_hot_texts_are_refused(cell):
    _, labels = read("multilabel", [cell, cell.replace("0", "1").replace("1.1", "1.0")])
    assert "looks like 0 and 1 for each class" in labels.faults()[0]


def test_minus_one_beside_numbers_of_classes_is_told():
    assert "-1 (2) is a class like the others" in read("classification", [-1, 0, 1, -1])[1].notes()[0]
    assert read("classification", [-1, "a"])[1].notes() == []


@pytest.mark.parametrize("other", [[1, 0], ["1", "0"], [1.0, 0.0], ["1.0"]])
def test_true_and_false_beside_0_and_1_are_refused(other):
    _, labels = read("classification", [True, False, *other])
    (told,) = labels.faults()
    assert "one class in two types" in told


def test_classes_that_look_alike_are_told_and_stay_apart():
    found, labels = read(
        "classification",
        ["Happy", "happy", "happy", "very  sad", "very sad", " calm", "calm", "sly\u200b", "sly"],
    )
    assert len(set(found)) == 7
    told = "\n".join(labels.notes())
    assert "'Happy' (1), 'happy' (2) differ in case, spaces or invisible characters only" in told
    assert "'sly\\u200b' (1), 'sly' (1)" in told
    assert "'very  sad' (1), 'very sad' (1)" in told
    assert "class 'calm' is written as" in told


@pytest.mark.parametrize(
    "cell",
    [
        "['a', 'b']",
        '["a", "b"]',
        "[a b]",
        "['a' 'b']",
        "('a', 'b')",
        "{'a', 'b'}",
        "a, b",
        "a;b",
        "[]",
        "array([1])",
    ],
)
def test_lists_written_as_texts_are_refused_with_the_remedy(cell):
    with pytest.raises(ValueError, match=r"a\|b"):
        column("multilabel").read(cell)
    if cell[0] in "[({":
        with pytest.raises(ValueError, match="kind multilabel"):
            column("classification").read(cell)


def test_a_text_of_bars_or_a_list_is_a_set():
    found, labels = read("multilabel", ["a|b", "a", "|", ["b", "a"], [], None, ("a",)])
    assert found == [["a", "b"], ["a"], [], ["b", "a"], [], None, ["a"]]
    assert labels.faults() == []
    assert column("multilabel", classes=["Sci-Fi, Action", "x"]).read("Sci-Fi, Action|x") == [
        "Sci-Fi, Action",
        "x",
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [[0, 1], [1, 0]],
        [[0.0, 1.0], [1.0, 0.0]],
        [[False, True], [True, False]],
        [["0", "1"], ["1", "0"]],
        [[1], [0]],
        [[-1, 1], [1, -1]],
        ["0|1", "1|0"],
        ["1|0|1", "0|0|1"],
    ],
)
def test_rows_of_0_and_1_are_refused_without_names_and_read_with_them(rows):
    _, labels = read("multilabel", rows)
    (told,) = labels.faults()
    assert "multi-hot" in told
    assert "targets.mood.classes" in told
    if rows[0] == [-1, 1]:
        return
    width = len(rows[0].split("|") if isinstance(rows[0], str) else rows[0])
    names = ["x", "y", "z"][:width]
    found, labels = read("multilabel", rows, classes=names)
    bits = [row.split("|") if isinstance(row, str) else row for row in rows]
    assert found == [[name for name, bit in zip(names, row) if float(bit)] for row in bits]
    assert labels.faults() == []


def test_multi_hot_rows_of_another_width_are_faults():
    with pytest.raises(ValueError, match=r"3 times 0 or 1.*but 2 classes"):
        column("multilabel", classes=["x", "y"]).read([0, 1, 1])
    with pytest.raises(ValueError, match="stands twice"):
        column("multilabel").read([0, 1, 1])
    with pytest.raises(ValueError, match="row of 0 and 1"):
        column("classification").read([0, 1, 0])


@pytest.mark.parametrize("cell", ["1_000", "inf", "-inf", 10**400, "1,5", "0x10", True, "١٢", [1], "1e99999"])
def test_numbers_are_plain_and_finite(cell):
    with pytest.raises(ValueError, match=r"expected a (finite )?number"):
        number(cell)
    with pytest.raises(ValueError, match=r"expected a (finite )?number"):
        column("regression").read(cell)


@pytest.mark.parametrize("cell", ["1", " -2.5e3 ", 7, 0.25, ".5", "5."])
def test_plain_numbers_are_what_python_reads(cell):
    assert column("regression").read(cell) == float(cell)


def test_what_is_shown_of_a_value_is_short():
    for value in ("x" * 10**6, b"x" * 10**6, [1.5] * 10**5, 10**5000, {"a": "b" * 10**5}):
        assert len(shown(value)) < 200
