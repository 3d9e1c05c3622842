"""RabbitMQ: what should be there (topology), the management API, and the publisher."""
