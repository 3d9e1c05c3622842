"""A real Kubernetes, RabbitMQ and PostgreSQL for the tests and for developers: `python -m tests.cluster`."""
