"""`python -m maestro` is the command `maestro`."""

from maestro.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
