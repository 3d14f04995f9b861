"""Parts of postings: what of a hold is captured, what of a transfer is reversed."""

from collections.abc import Collection, Mapping

from payflow.errors import shape_errors

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
            message = (
                f"There are {len(numbers)} postings: give each with its number and "
                "amount."
            )
            raise shape_errors([("postings", "missing", message)])
        return {next(iter(numbers)): parts}
    if parts is not None:
        message = f"There are postings 1 to {len(numbers)}."
        if errors := [
            (f"postings[{index}].number", "out_of_range", message)
            for index, number in enumerate(parts)
            if number not in numbers
        ]:
            raise shape_errors(errors)
    return parts
