"""Logins of Maestro's own, for people without a Kubernetes token: users in a Secret, passwords, short-lived tokens."""
