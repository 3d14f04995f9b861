"""Who does something, for the records that never change."""

from dataclasses import dataclass
from uuid import UUID

from payflow.errors import ProblemError


@dataclass(frozen=True, slots=True)
class Actor:
    """The originator of a change.

    Attributes:
        label: a name for people, for instance ``"client:checkout"``.
        client_id: the API client, the principal, if one acts.
        key_id: the key that the client used.
        request_id: the request or run, as it stands in the logs.
        permissions: what the actor may do beyond the ordinary.
    """

    label: str
    client_id: UUID | None = None
    key_id: UUID | None = None
    request_id: str = ""
    permissions: frozenset[str] = frozenset()

    def require(self, permission: str) -> None:
        """Goes on only with a permission.

        Raises:
            ProblemError: ``permission_denied``, naming it.
        """
        if permission not in self.permissions:
            raise ProblemError(
                "permission_denied",
                f"This needs the permission {permission!s}, which"
                " `manage.py create_api_key` gives to a client.",
                permission=str(permission),
            )
