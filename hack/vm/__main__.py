"""`python3 hack/vm COMMAND`: this tree on other kernels, in emulated machines."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "local-cluster"))

from virtual_machines.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
