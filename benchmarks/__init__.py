"""The benchmark: ``make bench``; see ``README.md`` beside this file."""
