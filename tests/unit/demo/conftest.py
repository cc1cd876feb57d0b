"""The demo is a program beside the package; its modules are found from here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "hack" / "demo"))
