"""Parts of postings: what of a hold is captured, what of a transfer is reversed."""

from collections.abc import Collection, Mapping

from payflow.errors import ProblemError

#: Minor units by posting number; or of the only posting; or ``None``: all that is left.
Parts = Mapping[int, int] | int | None


def amounts_of(parts: Parts, numbers: Collection[int]) -> Mapping[int, int] | None:
    """The amounts by posting number, or ``None`` for all that is left.

    Args:
        parts: what is asked for.
        numbers: of the postings that there are.

    Raises:
        ProblemError: ``invalid_request``: there is no such posting, or one amount is
            given for several.
    """
    if isinstance(parts, int):
        if len(numbers) != 1:
            raise ProblemError(
                "invalid_request",
                f"There are {len(numbers)} postings: give `postings` with a number and "
                "an amount each.",
            )
        return {next(iter(numbers)): parts}
    if parts is not None:
        for number in sorted(parts):
            if number not in numbers:
                raise ProblemError(
                    "invalid_request",
                    f"There are postings 1 to {len(numbers)}, and no {number}.",
                )
    return parts
