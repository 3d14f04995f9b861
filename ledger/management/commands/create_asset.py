"""``manage.py create_asset``: a unit of account beside ISO 4217's currencies."""

import json
from typing import Any

from django.core.management.base import CommandParser

from ledger.api.assets import asset_json
from ledger.management.base import LedgerCommand
from ledger.models import Asset, Ledger
from ledger.services.assets import AssetRequest, asset_create
from payflow.actors import Actor
from payflow.db import retry_on_conflict, transaction_owner
from payflow.errors import Problem, ProblemError
from payflow.money import format_amount

ACTOR = Actor("command:create_asset")

HELP = """\
Makes an asset of a ledger, in which accounts can be kept: points, a crypto-currency,
gold by weight. Nothing of it can be changed later, because the amounts in the books
take their meaning from it.
"""

EPILOG = """\
examples:
  manage.py create_asset --ledger demo --code PTS --name "Loyalty points" --exponent 0
  manage.py create_asset --ledger demo --code BTC --name Bitcoin --exponent 8 \\
      --json
"""


class Command(LedgerCommand):
    """Makes an asset."""

    help = HELP
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        parser.add_argument(
            "--ledger", required=True, metavar="SLUG", help="the ledger it is for"
        )
        parser.add_argument(
            "--code",
            required=True,
            help="3-12 capital letters and digits, a letter first; not of ISO 4217",
        )
        parser.add_argument("--name", required=True, help="for people")
        parser.add_argument(
            "--exponent",
            required=True,
            type=int,
            metavar="N",
            help="decimals of its smallest unit, 0 to 8",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def run(self, options: dict[str, Any]) -> None:
        """Makes the asset that the options describe."""
        slug = options["ledger"]
        ledger = Ledger.objects.filter(slug=slug).first()
        if ledger is None:
            raise self.failure(
                f"There is no ledger {slug!r}: make it with"
                f" `manage.py create_ledger {slug} --name NAME`."
            )
        request = AssetRequest(
            code=options["code"], name=options["name"], exponent=options["exponent"]
        )

        def create() -> Asset:
            with transaction_owner():
                asset = asset_create(ledger_id=ledger.id, request=request, actor=ACTOR)
                if isinstance(asset, Problem):
                    raise ProblemError.of(asset)
                return asset

        asset = retry_on_conflict(create)
        if options["json"]:
            self.say(json.dumps({"ledger": slug, **asset_json(asset)}))
            return
        unit = format_amount(1, asset.code, asset.exponent)
        self.say(f"Made asset {asset.code} in {slug}; its smallest unit is {unit}.")
