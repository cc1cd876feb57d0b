"""`python3 hack/local-cluster COMMAND`: a real Kubernetes cluster on this machine."""

import sys

from local_cluster.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
