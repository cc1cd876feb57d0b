from contextlib import suppress
from decimal import Decimal
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.api import QuantityError, milli_cpu, node_count


@pytest.mark.parametrize(
    ("quantity", "milli"),
    [
        ("200m", 200),
        ("1", 1000),
        (2, 2000),
        ("0.5", 500),
        (".5", 500),
        ("1.", 1000),
        ("100u", 1),
        ("1n", 1),
        ("1e-1", 100),
        ("1E2", 100_000),
        ("1k", 1_000_000),
        ("1Ki", 1_024_000),
        ("+1", 1000),
        ("-1", -1000),
    ],
)
def test_quantities(quantity: str | int, milli: int) -> None:
    """Every form that Kubernetes takes must mean here what it means there."""
    assert milli_cpu(quantity) == milli


@pytest.mark.parametrize(
    "text", ["", "lots", "m", "1 m", "1mm", "1M5", "0x1", "1e", "--1", "1,5", "NaN"]
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    """The message tells what to write instead."""
    with pytest.raises(QuantityError, match="write millicores such as 200m"):
        milli_cpu(text)


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_a_quantity_error(text: str) -> None:
    """An unreadable policy is reported; an unforeseen exception would stop the controller."""
    with suppress(QuantityError):
        milli_cpu(text)


@given(st.integers(0, 10**6), st.integers(0, 3))
def test_decimal_numbers_are_rounded_up(number: int, digits: int) -> None:
    """A limit must never become zero by rounding."""
    value = Decimal(number).scaleb(-digits)
    assert milli_cpu(f"{value:f}") == ceil(value * 1000)


@pytest.mark.parametrize(
    ("share", "nodes", "count"),
    [(10, 5, 10), (1, 500, 1), ("10%", 500, 50), ("10%", 14, 1), ("10%", 3, 1), ("100%", 7, 7)],
)
def test_share_of_nodes(share: str | int, nodes: int, count: int) -> None:
    """Rounded down, since it is the most that may go wrong at once; never none, or none begins."""
    assert node_count(share, nodes) == count


@pytest.mark.parametrize("text", ["", "0%", "101%", "-1%", "1.5%", "10", "ten", "10%%"])
def test_what_is_no_share_of_nodes_is_refused(text: str) -> None:
    """A policy with it is one that cannot be read: it changes nothing."""
    with pytest.raises(QuantityError, match="write a number such as 10"):
        node_count(text, 100)
