"""`python3 hack/local-cluster COMMAND`: a real Kubernetes cluster on this machine."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vm"))

from local_cluster.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
