import logging

import pytest

from ksm_operator.controller.log import _KeyValueFormatter


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("web", "web"),
        ("two words", '"two words"'),
        ("", '""'),
        ('a"b', '"a\\"b"'),
        ("a\nlevel=info msg=forged", '"a\\nlevel=info msg=forged"'),
        (3, "3"),
    ],
)
def test_values_stay_in_their_line(value: object, text: str) -> None:
    """Names come from users; one of them must not look like another log line."""
    record = logging.LogRecord("x", logging.INFO, "", 0, "said", None, None)
    record.fields = {"value": value}
    line = _KeyValueFormatter().format(record)
    assert line.endswith(f"level=info msg=said value={text}")
    assert "\n" not in line
