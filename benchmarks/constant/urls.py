"""One answer, about what a transfer's is; once to all, once to who asks for it well."""

from typing import Any

from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import IntegerField, Serializer, UUIDField
from rest_framework.views import APIView

_ID = "01a203e1-82ba-778d-a390-33ed0d0e1bcd"
ANSWER: dict[str, Any] = {
    "id": _ID,
    "kind": "transfer",
    "postings": [
        {
            "from_account_id": _ID,
            "to_account_id": _ID,
            "amount": 5000,
            "currency": "USD",
            "reversible": 5000,
        }
    ],
    "balances": [
        {"account_id": _ID, "currency": "USD", "posted": 100000, "version": 1},
        {"account_id": _ID, "currency": "USD", "posted": 100000, "version": 1},
    ],
    "reference": None,
    "description": "",
    "metadata": {},
    "effective_at": "2026-11-22T15:30:40.458328Z",
    "created_at": "2026-11-22T15:30:40.458328Z",
}


class ConstantView(APIView):
    """Answers the same to everybody."""

    def get(self, _request: Request) -> Response:
        """The answer."""
        return Response(ANSWER)

    post = get


class TransferSerializer(Serializer[Any]):
    """What a transfer needs."""

    from_account_id = UUIDField()
    to_account_id = UUIDField()
    amount = IntegerField(min_value=1)


class CheckedView(APIView):
    """Answers the same to every request that a serializer finds valid."""

    def post(self, request: Request) -> Response:
        """The answer."""
        TransferSerializer(data=request.data).is_valid(raise_exception=True)
        return Response(ANSWER)


urlpatterns = [path("", ConstantView.as_view()), path("checked", CheckedView.as_view())]
