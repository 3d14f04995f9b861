"""What may stand in the API's paths."""


class AnyTextConverter:
    """The rest of a path: slashes and line breaks too, all that can be stored."""

    regex = r"[^\x00]+"

    def to_python(self, value: str) -> str:
        """The text itself; Django has decoded it."""
        return value

    def to_url(self, value: str) -> str:
        """The text itself; Django encodes it."""
        return value
