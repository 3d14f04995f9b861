"""Digests are stored for ever: the same request has the same ones in every version."""

import hashlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from idempotency.fingerprint import request_digests


def test_digests_are_those_of_the_first_version():
    body = {
        "amount": 5000,
        "ok": True,
        "none": None,
        "text": 'Zoë "x"\n',
        "metadata": {"b": 1, "a": [1, "ä"]},
        "(operation)": 1,
    }

    digests = request_digests(
        operation="transfer.create", path_parameters={"account_id": "AbC"}, body=body
    )

    assert {name: digest[:16] for name, digest in digests.items()} == {
        "(operation)": "3fb4d58b3187613f",
        "(path) account_id": "6cc43f858fbb7633",
        "(field) (operation)": "6b86b273ff34fce1",
        "amount": "0f8eb4b72b6e0c9e",
        "metadata": "3165841a30efc681",
        "none": "74234e98afe7498f",
        "ok": "b5bea41b6c623f7c",
        "text": "69b5f940c944441a",
    }


@given(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.dictionaries(st.text(), st.integers() | st.lists(st.text()))
)
def test_a_digest_is_that_of_the_canonical_json(value: Any):
    canonical = json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":")
    )

    digests = request_digests(operation="o", path_parameters={}, body={"f": value})

    assert digests["f"] == hashlib.sha256(canonical.encode()).hexdigest()
