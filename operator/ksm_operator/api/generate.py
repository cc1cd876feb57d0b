"""Write the CRDs from the models: ``python -m ksm_operator.api.generate`` (``make generate``)."""

import sys
from pathlib import Path

import yaml

from ksm_operator.api._crd import crds

_HEADER = "# Generated from operator/ksm_operator/api by `make generate`. Do not edit.\n"
_CHART_HEAD = _HEADER + "{{- if .Values.crds.install }}\n"
_CHART_TAIL = "{{- end }}\n"


def rendered() -> dict[str, str]:
    """Return the generated files: path below the repository's root to content.

    Plain CRDs are for ``kubectl apply``. The chart's are templates: Helm never upgrades what lies
    in a chart's crds/ folder, and ``keep`` saves the users' policies from an uninstall.
    """
    files = {}
    for plural, crd in crds().items():
        files[f"crds/{plural}.yaml"] = _HEADER + _dump(crd)
        metadata = {**crd["metadata"], "annotations": {"helm.sh/resource-policy": "keep"}}
        in_chart = _dump({**crd, "metadata": metadata})
        files[f"helm/ksm-operator/templates/crd-{plural}.yaml"] = (
            _CHART_HEAD + in_chart + _CHART_TAIL
        )
    return files


class _Dumper(yaml.SafeDumper):
    """Writes repeated parts in full: people and tools read CRDs without YAML anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _dump(document: dict[str, object]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def main() -> None:
    """Write every generated file below the folder given, or the present one."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for path, content in rendered().items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        print(f"wrote {target}")  # noqa: T201 - a command for developers


if __name__ == "__main__":
    main()
