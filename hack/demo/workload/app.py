"""An address service: places, countries and phone numbers, answered from memory.

An ordinary Flask application for gunicorn. Every worker imports it and so holds its own copy of
the data: a read-only SQLite database of the world's 200,000 places of 500 inhabitants and more in
memory, the carriers and time zones of the world's phone numbers, the names of countries.
"""

from __future__ import annotations

import os
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

import phonenumbers
from babel import Locale, UnknownLocaleError
from flask import Flask, Response, jsonify, request
from phonenumbers import carrier, timezone

BY_NAME = """
SELECT DISTINCT place.* FROM alias JOIN place ON place.id = alias.place
WHERE alias.name = ? ORDER BY population DESC LIMIT 20
"""
AROUND = """
SELECT place.* FROM position JOIN place ON place.id = position.place
WHERE south > :latitude - 0.5 AND north < :latitude + 0.5
  AND west > :longitude - 0.5 AND east < :longitude + 0.5
ORDER BY population DESC LIMIT 20
"""


def load_places(path: Path) -> sqlite3.Connection:
    """The database of places, copied into this worker's memory so that no request reads a disk."""
    places = sqlite3.connect(":memory:", check_same_thread=False)
    places.deserialize(path.read_bytes())
    places.row_factory = sqlite3.Row
    return places


PLACES = load_places(Path(os.environ.get("PLACES", "/app/places.db")))

app = Flask(__name__)


@cache
def countries(language: str) -> dict[str, str]:
    """Names of countries by ISO code in a language; English where the language is not known."""
    try:
        return dict(Locale.parse(language, sep="-").territories)
    except (UnknownLocaleError, ValueError):
        return countries("en")


def language() -> str:
    """The language that this request asks for."""
    return request.args.get("lang", "en")[:20]


def described(rows: list[sqlite3.Row]) -> list[dict[str, Any]]:
    """Places with their country's name instead of its code."""
    names = countries(language())
    return [dict(row) | {"country": names.get(row["country"], row["country"])} for row in rows]


@app.get("/healthz")
def healthz() -> Response:
    """Ready as soon as the data is loaded, which importing this module does."""
    (places,) = PLACES.execute("SELECT count(*) FROM place").fetchone()
    return jsonify(status="ok", places=places)


@app.get("/city")
def city() -> tuple[Response, int]:
    """Places of a name, in whatever language: /city?name=Parigi&lang=fr."""
    rows = PLACES.execute(BY_NAME, (request.args.get("name", ""),)).fetchall()
    return jsonify(described(rows)), 200 if rows else 404


@app.get("/near")
def near() -> tuple[Response, int]:
    """The largest places around a position: /near?latitude=48.9&longitude=2.3."""
    try:
        position = {name: float(request.args[name]) for name in ("latitude", "longitude")}
    except (KeyError, ValueError):
        return jsonify(error="latitude and longitude are needed, in degrees"), 400
    return jsonify(described(PLACES.execute(AROUND, position).fetchall())), 200


@app.get("/phone")
def phone() -> tuple[Response, int]:
    """Whose number it is: /phone?number=%2B33612345678&lang=fr."""
    try:
        number = phonenumbers.parse(request.args.get("number", ""))
    except phonenumbers.NumberParseException as error:
        return jsonify(error=str(error)), 400
    region = phonenumbers.region_code_for_number(number) or ""
    return jsonify(
        number=phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL),
        valid=phonenumbers.is_valid_number(number),
        country=countries(language()).get(region),
        carrier=carrier.name_for_number(number, language()),
        timezones=timezone.time_zones_for_number(number),
    ), 200
