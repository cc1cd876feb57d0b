"""Quantities of Kubernetes, as far as a policy needs them: CPUs, and shares of nodes."""

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

_QUANTITY: Final = re.compile(
    r"^(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))"
    r"(?:(?P<suffix>[numkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]{1,2}))?$"
)
_SUFFIX: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}

_PERCENTAGE: Final = re.compile(r"^([1-9][0-9]?|100)%$")


class QuantityError(ValueError):
    """A string that is no Kubernetes quantity."""


def milli_cpu(quantity: str | int) -> int:
    """Return a CPU quantity in thousandths of a CPU, rounded up as Kubernetes does.

    Args:
        quantity: a Kubernetes quantity such as ``200m``, ``0.5`` or ``2``.

    Raises:
        QuantityError: the text is no quantity.
    """
    match = _QUANTITY.match(str(quantity))
    if match is None:
        raise QuantityError(
            f"{quantity!r} is no CPU quantity: write millicores such as 200m, or CPUs such as 0.5"
        )
    value = Decimal(match["number"])
    if match["suffix"]:
        value *= _SUFFIX[match["suffix"]]
    elif match["exponent"]:
        value = value.scaleb(int(match["exponent"]))
    return int((value * 1000).to_integral_value(rounding=ROUND_CEILING))


def node_count(share: str | int, nodes: int) -> int:
    """Return how many of so many nodes a number or a percentage means, at least one.

    Args:
        share: a number such as ``10``, or a percentage such as ``10%``, which is rounded down.
        nodes: how many nodes ``100%`` are.

    Raises:
        QuantityError: it is neither.
    """
    if isinstance(share, int):
        return max(1, share)
    match = _PERCENTAGE.match(share)
    if match is None:
        raise QuantityError(
            f"{share!r} is no share of nodes: write a number such as 10, or a percentage from 1% "
            "to 100%"
        )
    return max(1, nodes * int(match[1]) // 100)
