"""What the demo's things are called."""

from typing import Final

NAMESPACE: Final = "ksm-operator"
RELEASE: Final = "ksm-operator"
RELEASE_LABEL: Final = "demo=true"
"""On the Helm release: an operator that was there before the demo is used and left alone."""

DEMO_LABEL: Final = "ksm-operator.dev/demo"
"""On every namespace that the demo makes: it deletes no other."""

POLICY: Final = "web"
WEB: Final = "demo-web"
OTHER: Final = "demo-other"
FIRST_WORDS: Final = "first-words"
"""A pod that prints what it reads of itself."""
CRDS: Final = ("ksmpolicies.ksm-operator.dev", "ksmnodes.ksm-operator.dev")
AGENTS: Final = "app.kubernetes.io/name=ksm-operator,app.kubernetes.io/component=agent"
CONTROLLER: Final = "deployment/ksm-operator-controller"
REPLICAS: Final = 8
PROCESSES_PER_POD: Final = 3
"""gunicorn's master and its two workers."""
