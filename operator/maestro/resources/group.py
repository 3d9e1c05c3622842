"""The API group that the custom resources live in."""

GROUP = "maestro-operator.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
