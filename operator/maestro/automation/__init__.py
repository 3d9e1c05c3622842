"""Automations: what each one needs in Kubernetes and in the broker, and how that is brought about and kept."""
