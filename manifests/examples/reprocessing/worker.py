"""Two workers of a billing department: one takes in price lists, the other writes invoices by them.

Both keep what they write in a folder that they share. An invoice is a line of the ledger; written again, it is another
line, so that the ledger tells in which order things happened.
"""

import json
import os
import time
from pathlib import Path

from maestro_worker import BusinessError, Run, worker

DATA = Path(os.environ.get("DATA", "/data"))


@worker
def price_list(run: Run, price_list: str, price: float) -> dict[str, object]:
    """Take in the price list of a month."""
    part = DATA / f".{price_list}.json"
    part.write_text(json.dumps({"price": price}))
    part.rename(DATA / f"{price_list}.json")  # a reader never sees half a list
    return {"price_list": price_list, "price": price}


@worker
def invoice(run: Run, number: int, quantity: int, price_list: str, seconds: float = 0.2) -> dict[str, object]:
    """Write an invoice for `quantity` pieces by the price list that there is now."""
    try:
        price = json.loads((DATA / f"{price_list}.json").read_text())["price"]
    except FileNotFoundError:
        raise BusinessError("NO_PRICE_LIST", price_list) from None
    time.sleep(seconds)  # stands for the work that an invoice is
    written = {"number": number, "total": quantity * price}
    with (DATA / "ledger.jsonl").open("a") as ledger:
        ledger.write(json.dumps(written) + "\n")
    return written


@worker
def statement(run: Run, minute: str = "") -> dict[str, object]:
    """State what the invoices in the ledger come to, and leave that in the ledger."""
    try:
        lines = [json.loads(line) for line in (DATA / "ledger.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        lines = []
    stated = {"statement": minute, "invoices": sum("number" in line for line in lines)}
    with (DATA / "ledger.jsonl").open("a") as ledger:
        ledger.write(json.dumps(stated) + "\n")
    return stated
