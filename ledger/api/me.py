"""``/v1/me``: whom a key stands for."""

from rest_framework.request import Request
from rest_framework.response import Response

from ledger.api.views import ApiView
from ledger.models import Ledger


class MeView(ApiView):
    """The calling client and its ledger."""

    def get(self, request: Request) -> Response:
        """Client, key and ledger of this request."""
        principal = request.user
        ledger = Ledger.objects.get(id=principal.ledger_id)
        return Response(
            {
                "client": {
                    "id": str(principal.client_id),
                    "name": principal.client_name,
                    "permissions": sorted(principal.permissions),
                },
                "key_id": str(principal.key_id) if principal.key_id else None,
                "ledger": {
                    "id": str(ledger.id),
                    "slug": ledger.slug,
                    "name": ledger.name,
                    "time_zone": ledger.time_zone,
                },
            }
        )
