"""IPC codes: what is understood, what is refused, and the way up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.ipc import LEVELS, cut_code, parent

codes = st.builds(
    "{}{:02}{}{:03}{:02}".format,
    st.sampled_from("ABCDEFGH"),
    st.integers(1, 99),
    st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    st.integers(1, 999),
    st.integers(0, 99_999),
)


@pytest.mark.parametrize(
    "code",
    [
        "A01B03308",
        "A01B 33/08",
        "A01B33/08",
        "A01B  33/08",
        " a01b03308 ",
        "A01B 33",
        "A01B33",
        "A01B0033",
        "A01B0033080000",
        "A01B  33/08        20060101AFI20051220RMJP",
        "A01B 033/08 ()",
        "A01B 033/08 (2006.01)",
    ],
)
def test_every_way_of_writing_a_code_is_cut_alike(code):
    assert [cut_code(code, level) for level in LEVELS] == ["A", "A01", "A01B", "A01B 33"]


def test_long_subgroups_belong_to_their_main_group():
    assert cut_code("A61K0314439", "main_group") == cut_code("A61K 31/4439", "main_group")
    assert cut_code("A61K0314439", "main_group") == "A61K 31"


def test_main_group_zero_is_a_subclass():
    assert cut_code("F01C 000/63 ()", "subclass") == "F01C"
    with pytest.raises(ValueError, match="names no main group"):
        cut_code("F01C 000/63 ()", "main_group")


@pytest.mark.parametrize(
    ("code", "level"), [("A", "class"), ("A01", "subclass"), ("A01B", "main_group")]
)
def test_code_that_ends_above_the_level_is_refused(code, level):
    assert cut_code(code, LEVELS[LEVELS.index(level) - 1]) == code
    with pytest.raises(ValueError, match=f"'{code}' names no {level.replace('_', ' ')}"):
        cut_code(code, level)


@pytest.mark.parametrize(
    "code",
    ["", "Y02E", "I01", "A1", "A01b-3", "A01B3308", "A01B 33/8", "A01B 33/08 x", "A٠١B",
     "A01B 33333", "A01B\n33/08\nx"],
)  # fmt: skip
def test_malformed_code_is_refused_by_name_in_one_line(code):
    with pytest.raises(ValueError, match="malformed") as caught:
        cut_code(code, "section")
    assert repr(code) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_level_is_refused():
    with pytest.raises(ValueError, match="level: 'group' is not one of section, class"):
        cut_code("A01B03308", "group")


def test_parents_lead_up_to_the_section():
    assert parent("A01B 33") == "A01B"
    assert parent("A01B") == "A01"
    assert parent("A01") == "A"
    assert parent("A") is None


@pytest.mark.parametrize("label", ["A01B03308", "a01", "A01B 33/08", "earn"])
def test_parent_takes_labels_only(label):
    with pytest.raises(ValueError, match=r"not an IPC label|malformed"):
        parent(label)


@given(codes)
def test_each_level_is_the_parent_of_the_next_and_cuts_to_itself(code):
    labels = [cut_code(code, level) for level in LEVELS]
    assert [parent(label) for label in labels] == [None, *labels[:-1]]
    assert [cut_code(label, level) for label, level in zip(labels, LEVELS, strict=True)] == labels
