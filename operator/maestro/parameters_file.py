"""Write a Run's parameters to a file: what the init container of a Job does.

A file, because an environment value of some 130 kB can't be executed; through the API, because a Secret or ConfigMap
for each Run would have to be cleaned up. Standard library only: it starts once for each Job.
"""

from __future__ import annotations

import random
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

_ATTEMPTS = 30


def main(environ: Mapping[str, str]) -> int:
    """Fetch the parameters of `MAESTRO_RUN_ID` into `MAESTRO_PARAMETERS_FILE`.

    Tries again for some minutes while the API is away. Returns 0; 1 when the API refuses; 2 when a variable is absent.
    """
    try:
        url = f"{environ['MAESTRO_API_URL']}/api/v1/worker/jobs/{environ['MAESTRO_RUN_ID']}/parameters"
        token_file, target = Path(environ["MAESTRO_TOKEN_FILE"]), Path(environ["MAESTRO_PARAMETERS_FILE"])
    except KeyError as missing:
        print(f"maestro fetch-parameters: {missing.args[0]} is not set", file=sys.stderr)
        return 2
    for attempt in range(_ATTEMPTS):
        try:
            token = token_file.read_text(encoding="utf-8").strip()
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - the URL is the controller's
                target.write_bytes(response.read())
            return 0
        except urllib.error.HTTPError as error:
            if error.code not in (429, 500, 502, 503, 504):
                print(f"maestro fetch-parameters: the API answered {error.code} {error.reason}", file=sys.stderr)
                return 1
            problem: Exception = error
        except OSError as error:
            problem = error
        wait = random.uniform(0.5, 1.0) * min(15.0, 0.5 * 2**attempt)  # noqa: S311 - spreads the retries, no secret
        print(f"maestro fetch-parameters: {problem}; trying again in {wait:.1f} s", file=sys.stderr)
        time.sleep(wait)
    return 1
