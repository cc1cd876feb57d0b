"""KSMPolicy: what the user writes; what is reported of it is in `_policy_status`."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from ksm_operator.api._base import (
    LABEL_SYNTAX,
    LABEL_VALUE_SYNTAX,
    Model,
    NamespaceName,
    cel,
    percent_rule,
    rule,
)
from ksm_operator.api._policy_status import KSMPolicyStatus
from ksm_operator.api._selector import SELECTOR_CHARACTERS, LabelSelector

_SELECTOR_KEYS_RULE = rule(
    "!has(self.matchLabels) || "
    f"self.matchLabels.all(k, k.size() <= 128 && k.matches('{LABEL_SYNTAX}'))",
    "matchLabels: a key is a label key such as app or example.com/team, at most 128 characters",
)
_SELECTOR_VALUES_RULE = rule(
    "!has(self.matchLabels) || "
    f"self.matchLabels.all(k, self.matchLabels[k].matches('{LABEL_VALUE_SYNTAX}'))",
    "matchLabels: a value is a label value such as web: letters, digits, '-', '_' and '.'",
)
_SELECTOR_SIZE_RULE = rule(
    "(has(self.matchLabels) "
    "? self.matchLabels.map(k, k.size() + self.matchLabels[k].size()).sum() : 0) + "
    "(has(self.matchExpressions) ? self.matchExpressions.map(e, e.key.size() + "
    "(has(e.values) ? e.values.map(v, v.size()).sum() : 0)).sum() : 0) "
    f"<= {SELECTOR_CHARACTERS}",
    f"the selector's keys and values have more than {SELECTOR_CHARACTERS} characters in all: "
    "give what belongs together one label, and select that",
)
_SELECTOR_RULES = (_SELECTOR_KEYS_RULE, _SELECTOR_VALUES_RULE, _SELECTOR_SIZE_RULE)
Scope = Annotated[LabelSelector, Field(json_schema_extra=cel(*_SELECTOR_RULES))]
NAMESPACES_CHARACTERS: Final = 600
"""Most characters of all names in one list of namespaces."""
NAMESPACES_SIZE_RULE = rule(
    f"size(self) == 0 || self.map(n, n.size()).sum() <= {NAMESPACES_CHARACTERS}",
    f"namespaces: the names have more than {NAMESPACES_CHARACTERS} characters in all: "
    "label the namespaces and write a namespaceSelector instead",
)


class KsmdSysfs(Model):
    """Optional values under /sys/kernel/mm/ksm: written only where set, restored on release."""

    merge_across_numa_nodes: Annotated[
        bool | None,
        Field(
            alias="mergeAcrossNUMANodes",
            description="merge_across_nodes: false keeps merging within each NUMA node. "
            "The kernel refuses a change while pages are shared; it is made before the first "
            "enrolment or reported as PendingRelease. Left as found when not set.",
        ),
    ] = None
    max_page_sharing: Annotated[
        int | None,
        Field(
            description="max_page_sharing: how many mappings may share one page, at least 2. "
            "The kernel refuses a change while pages are shared; it is made before the first "
            "enrolment or reported as PendingRelease. Left as found when not set.",
            json_schema_extra=cel(
                rule(
                    "self >= 2 && self <= 2147483647",
                    "ksmd.maxPageSharing is the number of mappings that may share one page: "
                    "write 2 or more, for example 256",
                )
            ),
        ),
    ] = None
    use_zero_pages: Annotated[
        bool | None,
        Field(
            description="use_zero_pages: merge empty pages with the kernel's zero page. "
            "Left as found when not set."
        ),
    ] = None
    smart_scan: Annotated[
        bool | None,
        Field(
            description="smart_scan (kernel 6.7 or newer): skip pages that failed to merge before. "
            "When not set, Auto switches it as needed, and the others leave it as found."
        ),
    ] = None


class Ksmd(KsmdSysfs):
    """How ksmd, the kernel's scanner, is tuned on the nodes of the policy."""

    tuning: Annotated[
        Literal["Auto", "Advisor", "Fixed"],
        Field(
            description="Auto: the agent has ksmd scan at once where memory is new, and then as "
            "often as that pays. Advisor: the kernel's own (6.8 or newer; Auto before). Fixed: "
            "pagesToScan and sleepMilliseconds as written, but batches so large that ksmd would "
            "exceed cpuLimit before it can be stopped are divided. All stay below cpuLimit, by "
            "feedback on the CPU time that ksmd really used."
        ),
    ] = "Auto"
    cpu_limit: Annotated[
        str | int,
        Field(
            description="The most CPU that ksmd may use on a node, a Kubernetes quantity.",
            json_schema_extra=cel(
                rule(
                    "type(self) == int ? self > 0 : "
                    "isQuantity(string(self)) && "
                    "quantity(string(self)).isGreaterThan(quantity('0'))",
                    "ksmd.cpuLimit must be a CPU quantity above 0: "
                    "write for example 200m (a fifth of a CPU) or 1",
                ),
                maxLength=20,
                **{"x-kubernetes-int-or-string": True},
            ),
        ),
    ] = "200m"
    pages_to_scan: Annotated[
        int | None,
        Field(
            description="pages_to_scan: pages per batch. Required by Fixed, not allowed otherwise.",
            json_schema_extra=cel(
                rule(
                    "self >= 1 && self <= 1000000",
                    "ksmd.pagesToScan is the number of pages per batch: "
                    "write a whole number from 1 to 1000000, for example 1000",
                )
            ),
        ),
    ] = None
    sleep_milliseconds: Annotated[
        int | None,
        Field(
            description="sleep_millisecs: pause between batches. "
            "Required by Fixed, not allowed otherwise.",
            json_schema_extra=cel(
                rule(
                    "self >= 1 && self <= 3600000",
                    "ksmd.sleepMilliseconds is the pause between batches: "
                    "write a whole number from 1 to 3600000, for example 20",
                )
            ),
        ),
    ] = None
    start_below_available_percent: Annotated[
        int,
        Field(
            description="Scan only while the node's MemAvailable is below this share of MemTotal; "
            "100 scans always.",
            json_schema_extra=percent_rule("ksmd.startBelowAvailablePercent", 100),
        ),
    ] = 100


class Enrollment(Model):
    """Which of the selected pods' processes are enrolled."""

    running_pods: Annotated[
        Literal["Attach", "Skip"],
        Field(
            description="Attach: containers that run already are enrolled too, without a restart. "
            "Skip: only containers that started after the node was granted to the policy."
        ),
    ] = "Attach"
    consent: Annotated[
        Literal["OptOut", "OptIn"],
        Field(
            description="OptOut: every selected pod but those labelled "
            "ksm-operator.dev/merge: disabled. OptIn: only those labelled "
            "ksm-operator.dev/merge: enabled. The label may stand on the pod or on its namespace; "
            "the pod's wins. With enabled, pods are let in that are left alone by default: those "
            "of system-critical priority classes, with hugepages or exclusive CPUs, virtual "
            "machines and sandboxes."
        ),
    ] = "OptOut"
    huge_pages: Annotated[
        Literal["Auto", "Preserve", "Split"],
        Field(
            description="Merging splits transparent huge pages. Auto: a process that lives in them "
            "is enrolled if what its pages hold says that merging gives a good part of that memory "
            "back. Preserve: never, while it lives in them. Split: always."
        ),
    ] = "Auto"


class Isolation(Model):
    """What becomes of a node on which others merge too."""

    on_foreign_merging: Annotated[
        Literal["Pause", "Report"],
        Field(
            description="Any process can ask for merging by itself, and all that do share one pool "
            "of the node's. When one outside the policy's domain does: Pause stops the scanner "
            "while it is there, and a while longer; Report only says so. It is noticed after the "
            "fact, and what was merged stays merged."
        ),
    ] = "Pause"


class Rollout(Model):
    """How a policy comes to its nodes."""

    max_concurrent_nodes: Annotated[
        int | str,
        Field(
            description="How many nodes may be in their first enrolment at once: a number, or a "
            "percentage of the policy's nodes, rounded down; at least one. No further node begins "
            "while one of them is Degraded. A node that has just joined the cluster does not "
            "queue.",
            json_schema_extra=cel(
                rule(
                    "type(self) == int ? self >= 1 : self.matches('^([1-9][0-9]?|100)%$')",
                    "rollout.maxConcurrentNodes is a number of nodes, at least 1, or a percentage "
                    "from 1% to 100%: write for example 10 or 10%; 100% takes all at once",
                ),
                maxLength=4,
                **{"x-kubernetes-int-or-string": True},
            ),
        ),
    ] = "10%"


class KSMPolicySpec(Model):
    """What the user asks for."""

    namespace_selector: Annotated[
        LabelSelector | None,
        Field(
            description="Pods of the namespaces with these labels form one security domain: "
            "what merges together can be told by its neighbours through timing. Exactly one of "
            "namespaceSelector and namespaces. kube-*, openshift-* and the operator's own "
            "namespace are selected only by name, through namespaces.",
            json_schema_extra=cel(
                rule(
                    "(has(self.matchLabels) && size(self.matchLabels) > 0) || "
                    "(has(self.matchExpressions) && size(self.matchExpressions) > 0)",
                    "an empty namespaceSelector would put every namespace into one security "
                    "domain: write the labels of the namespaces that may share pages, "
                    "for example matchLabels: {ksm: web}",
                ),
                *_SELECTOR_RULES,
            ),
        ),
    ] = None
    namespaces: Annotated[
        tuple[NamespaceName, ...] | None,
        Field(
            description="The namespaces by name, instead of namespaceSelector.",
            max_length=32,
            json_schema_extra=cel(
                rule(
                    "size(self) > 0",
                    "namespaces is empty: name at least one namespace, for example [web], "
                    "or write a namespaceSelector instead",
                ),
                rule(
                    "self.all(n, n.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))",
                    "namespaces: a namespace name has lower-case letters, digits and '-', "
                    "at most 63 of them, for example web-frontend",
                ),
                NAMESPACES_SIZE_RULE,
                **{"x-kubernetes-list-type": "set"},
            ),
        ),
    ] = None
    pod_selector: Annotated[
        Scope | None, Field(description="Narrows the pods further; all of them when not set.")
    ] = None
    node_selector: Annotated[
        Scope | None, Field(description="On which nodes; all of them when not set.")
    ] = None
    priority: Annotated[
        int,
        Field(
            description="A node belongs to one policy: the higher priority wins it, else its "
            "present owner keeps it, else the older policy, then the name.",
            json_schema_extra=cel(
                rule(
                    "self >= -1000000 && self <= 1000000",
                    "priority is a whole number from -1000000 to 1000000; the higher one wins",
                )
            ),
        ),
    ] = 0
    mode: Annotated[
        Literal["Enforce", "Observe", "Paused"],
        Field(
            description="Enforce: enrol and merge. Observe: merge nothing, give back what is "
            "merged, and estimate what merging would give back; what that reads of memory takes no "
            "more CPU than ksmd.cpuLimit. Paused: keep what is merged, stop scanning, enrol "
            "nothing new."
        ),
    ] = "Enforce"
    enrollment: Annotated[
        Enrollment,
        Field(
            description="Which processes of the selected pods are enrolled.",
            json_schema_extra={"default": {}},
        ),
    ] = Enrollment()
    isolation: Annotated[
        Isolation,
        Field(
            description="What is done where processes outside the domain merge too.",
            json_schema_extra={"default": {}},
        ),
    ] = Isolation()
    ksmd: Annotated[
        Ksmd,
        Field(
            description="How ksmd is tuned.",
            json_schema_extra=cel(
                rule(
                    "self.tuning != 'Fixed' || "
                    "(has(self.pagesToScan) && has(self.sleepMilliseconds))",
                    "ksmd.tuning Fixed needs its numbers: write ksmd.pagesToScan and "
                    "ksmd.sleepMilliseconds, for example 1000 and 20, or use tuning: Auto",
                ),
                rule(
                    "self.tuning == 'Fixed' || "
                    "!(has(self.pagesToScan) || has(self.sleepMilliseconds))",
                    "ksmd.pagesToScan and ksmd.sleepMilliseconds are obeyed only with "
                    "tuning: Fixed: add it, or remove them",
                ),
                rule(
                    "self.tuning != 'Advisor' || type(self.cpuLimit) == int || "
                    "!isQuantity(string(self.cpuLimit)) || "
                    "quantity(string(self.cpuLimit)).compareTo(quantity('100m')) >= 0",
                    "the kernel's advisor uses at least a tenth of a CPU: with ksmd.tuning Advisor "
                    "write ksmd.cpuLimit 100m or more, or use tuning: Auto",
                ),
                # The rules are judged on the default as written here, before nested defaults.
                default={"tuning": "Auto"},
            ),
        ),
    ] = Ksmd()
    rollout: Annotated[
        Rollout,
        Field(
            description="How many nodes begin at once.",
            json_schema_extra={"default": {}},
        ),
    ] = Rollout()
    release_reserve_percent: Annotated[
        int,
        Field(
            description="Share of MemTotal that giving merged pages back may never eat, beside "
            "every cgroup's limit.",
            json_schema_extra=percent_rule("releaseReservePercent", 10),
        ),
    ] = 10


class KSMPolicy(Model):
    """A security domain of pods whose identical memory is merged, and at what cost."""

    metadata: dict[str, Any]
    spec: KSMPolicySpec
    status: KSMPolicyStatus | None = None
