"""``python -m payflow.embedded run``: what ``make run`` calls."""

import sys

from payflow.embedded.prepare import prepare
from payflow.embedded.stack import run

COMMANDS = {"run": run, "prepare": prepare}


def main() -> int:
    """Runs the command that the argument names, and returns its exit status."""
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        print(f"Use: python -m payflow.embedded {'|'.join(COMMANDS)}", file=sys.stderr)
        return 2
    return COMMANDS[sys.argv[1]]()


if __name__ == "__main__":
    sys.exit(main())
