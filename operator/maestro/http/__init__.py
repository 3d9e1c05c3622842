"""The HTTP API: one file per area; `app.create_app` puts them together."""
