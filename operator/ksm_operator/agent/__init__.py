"""The node agent: enrols the pods that its KSMNode selects, tunes ksmd, gives everything back.

One main loop decides and touches the machine; threads only bring news (API watches, cgroups).
The decisions themselves are pure: :mod:`.placement`, :mod:`.selection`, :mod:`.ksmd` and
:mod:`.status` take values and a clock and know neither the kernel nor the API server.
"""

from __future__ import annotations

import sys

if "typing_extensions" not in sys.modules:
    # msgspec takes get_type_hints from there if it is installed, and from `typing`, which has the
    # same since Python 3.11, if not: 2.1 MiB on each node for nothing.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec  # noqa: F401 - for who imports it next
    finally:
        del sys.modules["typing_extensions"]
