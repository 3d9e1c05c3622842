"""Which Git tool an object belongs to. Maestro doesn't write what is in Git: the tool would put its own back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ARGO = "argocd.argoproj.io/"
ARGO_INSTANCE = "app.kubernetes.io/instance"
KUSTOMIZATION = "kustomize.toolkit.fluxcd.io"
HELM_RELEASE = "helm.toolkit.fluxcd.io"


def git_owner(obj: Mapping[str, Any]) -> str | None:
    """The Git tool that an object says it belongs to, in words; None where there is none.

    Parameters
    ----------
    obj
        The object as the API server answers it, `metadata.managedFields` included.
    """
    meta = obj.get("metadata") or {}
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    return _argo(labels, annotations, meta) or _flux(labels, annotations)


def _argo(labels: Mapping[str, str], annotations: Mapping[str, str], meta: Mapping[str, Any]) -> str | None:
    tracking = annotations.get(f"{ARGO}tracking-id", "").partition(":")[0] or labels.get(f"{ARGO}instance")
    if tracking:
        return f"the Argo CD application {tracking}"
    if any(key.startswith(ARGO) for key in (*labels, *annotations)):
        return "Argo CD"
    # The default of Argo CD before 3.0; Helm and people use the same label, so it takes Argo's own writing to tell.
    instance = labels.get(ARGO_INSTANCE)
    return f"the Argo CD application {instance}" if instance and _written_by_argo(meta) else None


def _written_by_argo(meta: Mapping[str, Any]) -> bool:
    return any(str(entry.get("manager", "")).startswith("argocd") for entry in meta.get("managedFields") or ())


def _flux(labels: Mapping[str, str], annotations: Mapping[str, str]) -> str | None:
    # Flux leaves an object alone that is annotated so.
    if annotations.get(f"{KUSTOMIZATION}/reconcile") == "disabled":
        return None
    for kind, prefix in (("Kustomization", KUSTOMIZATION), ("HelmRelease", HELM_RELEASE)):
        name = labels.get(f"{prefix}/name")
        if name:
            namespace = labels.get(f"{prefix}/namespace")
            return f"the Flux {kind} {f'{namespace}/' if namespace else ''}{name}"
    return None
