"""What a policy tells its nodes. Pure."""

from typing import Final, Literal

from ksm_operator.api import (
    EnrollmentOnNode,
    IsolationOnNode,
    KsmdOnNode,
    KSMNodeSpec,
    KSMPolicySpec,
    NodePolicy,
    Owner,
    milli_cpu,
)

_MAX_MILLI_CPU = 1_000_000
"""ksmd is one thread; a larger limit means the same and might not fit the schema's int64."""


_STATES: Final[dict[str, Literal["Merging", "Observing", "Paused"]]] = {
    "Enforce": "Merging",
    "Observe": "Observing",
    "Paused": "Paused",
}
"""What a policy's mode means for a node."""


def order_of(owner: Owner, spec: KSMPolicySpec) -> KSMNodeSpec:
    """Return the spec of the policy's nodes, but for the time since when each is its own."""
    ksmd = spec.ksmd
    limit = min(max(milli_cpu(ksmd.cpu_limit), 1), _MAX_MILLI_CPU)
    return KSMNodeSpec(
        owner=owner,
        desired_state=_STATES[spec.mode],
        policy=NodePolicy(
            namespace_selector=spec.namespace_selector,
            namespaces=spec.namespaces,
            pod_selector=spec.pod_selector,
            enrollment=EnrollmentOnNode(
                running_pods=spec.enrollment.running_pods,
                consent=spec.enrollment.consent,
                huge_pages=spec.enrollment.huge_pages,
            ),
            isolation=IsolationOnNode(on_foreign_merging=spec.isolation.on_foreign_merging),
            ksmd=KsmdOnNode(
                tuning=ksmd.tuning,
                cpu_limit_milli_cpu=limit,
                pages_to_scan=ksmd.pages_to_scan,
                sleep_milliseconds=ksmd.sleep_milliseconds,
                start_below_available_percent=ksmd.start_below_available_percent,
                merge_across_numa_nodes=ksmd.merge_across_numa_nodes,
                max_page_sharing=ksmd.max_page_sharing,
                use_zero_pages=ksmd.use_zero_pages,
                smart_scan=ksmd.smart_scan,
            ),
            release_reserve_percent=spec.release_reserve_percent,
        ),
    )
