"""Pictures that every browser can show."""

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.governor.plot import Panel, Point, svg, ticks

SPACE = "{http://www.w3.org/2000/svg}"


def points(line: ET.Element) -> list[Point]:
    """Where a line goes."""
    pairs = (word.split(",") for word in line.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def picture(*panels: Panel, title: str = "a title") -> ET.Element:
    """A picture that was read back."""
    return ET.fromstring(svg(title, panels))


@given(st.floats(1e-9, 1e12))
def test_an_axis_has_a_few_round_numbers(largest: float) -> None:
    """They begin at nothing and go as far as the values do."""
    marks = ticks(largest)
    assert marks[0] == 0
    assert marks[-1] >= largest * (1 - 1e-6)
    assert 3 <= len(marks) <= 8
    step = marks[1]
    assert float(f"{step:.0e}") == pytest.approx(step), "one digit"


def test_an_axis_without_values() -> None:
    """Nothing was saved, which is a result too; next to nothing looks the same."""
    assert ticks(0.0) == ticks(5e-324) == [0.0, 1.0]


def test_each_algorithm_has_a_line_in_each_panel() -> None:
    """With the same colour in both, which the legend names once."""
    lines = {"one": [(0.0, 0.0), (10.0, 5.0)], "other": [(0.0, 1.0), (10.0, 2.0)]}
    root = picture(Panel("up", lines), Panel("down", lines))
    drawn = root.findall(f"{SPACE}polyline")
    assert [one.findtext(f"{SPACE}title") for one in drawn] == ["one", "other"] * 2
    assert drawn[0].attrib["stroke"] == drawn[2].attrib["stroke"] != drawn[1].attrib["stroke"]
    texts = [one.text for one in root.findall(f"{SPACE}text")]
    assert texts.count("one") == 1


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30))
def test_lines_stay_in_the_picture(values: list[float]) -> None:
    """Whatever the values."""
    root = picture(Panel("p", {"one": [(float(at), value) for at, value in enumerate(values)]}))
    _, _, wide, high = (float(word) for word in root.attrib["viewBox"].split())
    for x, y in points(root.findall(f"{SPACE}polyline")[0]):
        assert 0 <= x <= wide
        assert 0 <= y <= high


def test_more_is_higher_and_later_is_further_right() -> None:
    """The vertical axis of SVG points down."""
    root = picture(Panel("p", {"one": [(0.0, 0.0), (1.0, 3.0)]}))
    (x, y), (later, higher) = points(root.findall(f"{SPACE}polyline")[0])
    assert later > x
    assert higher < y


def test_names_with_marks_are_text() -> None:
    """A name with an ampersand would end the picture."""
    root = picture(Panel("a < b", {"x & y": [(0.0, 1.0)]}), title="<title>")
    texts = [one.text for one in root.findall(f"{SPACE}text")]
    assert {"<title>", "a < b", "x & y"} <= set(texts)
