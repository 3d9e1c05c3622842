"""Kubernetes: the client, the caches of what the API server holds, and what feeds them."""
