"""The bank simulator as a process of its own, driven over HTTP."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2

from payflow.ids import new_id
from payflow.tests.processes import HTTP

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 10


class SimulatedBank:
    """``manage.py bank_simulator`` on a free port."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts it and returns when it listens."""
        self.process = subprocess.Popen(
            [
                *(sys.executable, "manage.py", "bank_simulator"),
                *("--port", "0", "--database", str(self.database)),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "listening on" in line, line
        self.url = line.rsplit(" ", 1)[1].strip()

    def stop(self) -> str:
        """Asks it to end; returns what it logged."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=TIMEOUT_SECONDS)
        assert self.process.returncode == 0, output
        return output

    def kill(self) -> None:
        """Ends it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT_SECONDS)

    def control(self, **rule: Any) -> httpx2.Response:
        """``PUT /control``."""
        return HTTP.put(f"{self.url}/control", json=rule, timeout=TIMEOUT_SECONDS)

    def destination(self, behaviour: str, **rule: Any) -> str:
        """A new destination that is treated so."""
        destination = f"account-{new_id()}"
        response = self.control(behaviour=behaviour, destination=destination, **rule)
        assert response.status_code == 200, response.text
        return destination

    def post(self, key: object, **body: Any) -> httpx2.Response:
        """``POST /payouts``."""
        return HTTP.post(
            f"{self.url}/payouts",
            headers={"Idempotency-Key": str(key)},
            json={
                "amount": 500,
                "currency": "USD",
                "destination": "somewhere",
                "reference": "r",
                **body,
            },
            timeout=TIMEOUT_SECONDS,
        )

    def get(self, path: str) -> httpx2.Response:
        """``GET path``."""
        return HTTP.get(f"{self.url}{path}", timeout=TIMEOUT_SECONDS)

    def payout(self, key: UUID) -> dict[str, Any] | None:
        """What the bank knows of a key; ``None`` if nothing."""
        response = self.get(f"/payouts/{key}")
        if response.status_code == 404:
            return None
        body: dict[str, Any] = response.json()
        return body

    def payments(self, key: UUID) -> tuple[int, int]:
        """How many times money left for a key, and how much of it."""
        payout = self.payout(key)
        return (payout["payment_count"], payout["paid_amount"]) if payout else (0, 0)
