"""Plain data against a struct: whatever is wrong is one line with place, key and the nearest valid one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from bytemlperf.checked import Checked, check, plain
from bytemlperf.errors import UserError


class Circle(Checked, frozen=True, kw_only=True, tag_field="shape", tag="circle"):
    radius: Annotated[float, Meta(gt=0)]


class Square(Checked, frozen=True, kw_only=True, tag_field="shape", tag="square"):
    side: Annotated[int, Meta(ge=1, multiple_of=2)]


class Paper(Checked, frozen=True, kw_only=True):
    shapes: list[Circle | Square] = []  # noqa: RUF012
    named: dict[str, Circle | Square] = {}  # noqa: RUF012
    inks: dict[Literal["red", "green"], Annotated[float, Meta(ge=0)]] = {}  # noqa: RUF012
    sizes: tuple[int, int | None] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.note and not self.shapes:
            raise ValueError("a note needs shapes; leave it out")


def wrong(data: Any, *, strict: bool = True) -> str:
    with pytest.raises(UserError) as caught:
        check(data, Paper, lambda location: f"F:{'/'.join(map(str, location))}", strict=strict)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"shape": []}, "F:shape: 'shape' is not a key here; did you mean 'shapes'?"),
        ({"shapes": [{"shape": "circle", "radius": 1}, {"shape": "square", "side": 3}]}, "F:shapes/1/side: shapes.1.side can't be '3'"),
        ({"shapes": [{"shape": "square", "side": 3}]}, "give a whole number that's a multiple of 2"),
        ({"shapes": [{"shape": "square", "radius": 3}]}, "'radius' is not a key of shapes.0; valid: shape, side"),
        ({"shapes": [{"shap": "square"}]}, "shapes.0.shape is missing; rename 'shap' to 'shape'"),
        ({"shapes": [{"side": 2}]}, "shapes.0.shape is missing; add shape: one of circle, square"),
        ({"shapes": [{"shape": "squre"}]}, "shapes.0.shape can't be 'squre'; did you mean 'square'?"),
        ({"shapes": [{"shape": "circle"}]}, "shapes.0.radius is missing; add radius"),
        (
            {"named": {"a": {"shape": "circle", "radius": 1}, "b": {"shape": "circle", "radius": 0}}},
            "F:named/b/radius: named.b.radius can't be '0'",
        ),
        ({"inks": {"gren": 1}}, "F:inks: 'gren' is not a key of inks; did you mean 'green'?"),
        ({"inks": {"red": "much"}}, "F:inks/red: inks.red can't be 'much'; give a number"),
        ({"sizes": [1]}, "sizes can't be '[1]'; give a list of length 2"),
        ({"sizes": [1, True]}, "sizes.1 can't be 'True'; give a whole number or null"),
        ({"note": "x"}, "F:: a note needs shapes; leave it out"),
        ([1], "the file can't be '[1]'; give a mapping"),
    ],
)
def test_what_is_wrong_is_one_line(data: Any, says: str) -> None:
    said = wrong(data)
    assert says in said
    assert "\n" not in said


def test_numbers_may_be_text_where_they_come_as_text() -> None:
    assert "can't be '4'" in wrong({"shapes": [{"shape": "square", "side": "4"}]})
    read = check({"shapes": [{"shape": "square", "side": "4"}]}, Paper, lambda _: "", strict=False)
    assert read.shapes == [Square(side=4)]
    assert plain(read)["shapes"] == [{"shape": "square", "side": 4}]
