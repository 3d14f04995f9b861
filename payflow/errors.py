"""Problems: what a service answers when it does not do what it was asked.

A problem that is *returned* is a business refusal: an outcome like any other, decided
before the first write, that commits together with its idempotency key. A problem that
is *raised* undoes everything. The codes are a closed set, ``payflow.api.problems``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Field, code and message of something in a request that is of the wrong form.
FieldError = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        code: a stable name from the registry.
        detail: a sentence for people about this occurrence.
        fields: typed facts for machines, for instance ``available`` in minor units.
    """

    code: str
    detail: str
    fields: Mapping[str, Any] = field(default_factory=dict)


class ProblemError(Exception):
    """A problem that rolls everything back.

    Args:
        code, detail, fields: as in :class:`Problem`.
        retry_after_seconds: when a retry makes sense, for problems that pass.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        retry_after_seconds: int | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.problem = Problem(code, detail, fields)
        self.retry_after_seconds = retry_after_seconds

    @classmethod
    def of(cls, problem: Problem) -> "ProblemError":
        """The error that raises ``problem``."""
        return cls(problem.code, problem.detail, **problem.fields)


def shape_errors(errors: Iterable[FieldError]) -> ProblemError:
    """The ``invalid_request`` problem that lists what is wrong with which field."""
    listed = [{"field": f, "code": c, "message": m} for f, c, m in errors]
    summary = "; ".join(f"{e['field'] or 'body'}: {e['message']}" for e in listed[:3])
    return ProblemError("invalid_request", summary, errors=listed)
