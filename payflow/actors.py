"""Who does something, for the records that never change."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Actor:
    """The originator of a change.

    Attributes:
        label: a name for people, for instance ``"client:checkout"``.
        client_id: the API client, the principal, if one acts.
        key_id: the key that the client used.
        request_id: the request or run, as it stands in the logs.
    """

    label: str
    client_id: UUID | None = None
    key_id: UUID | None = None
    request_id: str = ""
