"""Worker SDK of Maestro."""
