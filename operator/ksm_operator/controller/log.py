"""Structured logs: one line of key=value pairs per decision."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("ksm_operator.controller")


class _KeyValueFormatter(logging.Formatter):
    """Formats ``time level msg`` and the fields of the record as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())


def _quoted(value: Any) -> str:
    text = str(value)
    plain = text and all(char.isprintable() and char not in ' "=' for char in text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def configure(level: str) -> None:
    """Send every log line of the process to standard error, from `level` upwards."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_KeyValueFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("kopf", "urllib3", "asyncio", "kubernetes"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It warns that it leaves signals alone; they are run.py's.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)


def info(message: str, **fields: Any) -> None:
    """Log a decision or a fact."""
    _LOGGER.info(message, extra={"fields": fields})


def debug(message: str, **fields: Any) -> None:
    """Log what only a developer looks for."""
    _LOGGER.debug(message, extra={"fields": fields})


def warning(message: str, **fields: Any) -> None:
    """Log what somebody may have to act on."""
    _LOGGER.warning(message, extra={"fields": fields})


def error(message: str, *, trace: bool = False, **fields: Any) -> None:
    """Log a failure; with `trace`, where in the code the present exception came from."""
    _LOGGER.error(message, exc_info=trace, extra={"fields": fields})
