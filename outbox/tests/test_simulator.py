"""The bank simulator, as a process."""

import threading

import httpx2
import pytest

from outbox.simulator.behaviours import Behaviour, parse_rule, rule_of_destination
from outbox.tests.bank import SimulatedBank
from payflow.ids import new_id


def test_a_payout_is_paid_once_however_often_it_is_sent(bank: SimulatedBank) -> None:
    key = new_id()

    first = bank.post(key)
    again = bank.post(key)

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert first.json()["status"] == "settled"
    assert bank.payments(key) == (1, 500)


def test_parallel_sends_of_one_key_are_one_payment(bank: SimulatedBank) -> None:
    key = new_id()
    start = threading.Barrier(8)
    statuses = []

    def send() -> None:
        start.wait()
        statuses.append(bank.post(key).status_code)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [200] * 7 + [201]
    assert bank.payments(key) == (1, 500)


@pytest.mark.parametrize(
    "change",
    [{"amount": 501}, {"currency": "EUR"}, {"destination": "x"}, {"reference": "x"}],
)
def test_a_key_with_another_body_is_refused(
    bank: SimulatedBank, change: dict[str, object]
) -> None:
    key = new_id()
    bank.post(key)

    response = bank.post(key, **change)

    assert response.status_code == 422
    assert response.json()["code"] == "key_reused"
    assert bank.payments(key) == (1, 500)


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 0},
        {"amount": -1},
        {"amount": 1.5},
        {"amount": True},
        {"amount": "5"},
        {"currency": None},
        {"destination": 7},
        {"reference": None},
    ],
)
def test_a_malformed_payout_is_refused_and_not_recorded(
    bank: SimulatedBank, change: dict[str, object]
) -> None:
    key = new_id()

    response = bank.post(key, **change)

    assert response.status_code == 400
    assert bank.payout(key) is None


def test_a_payout_without_a_key_is_refused(bank: SimulatedBank) -> None:
    response = bank.post("")

    assert response.status_code == 400


def test_an_unknown_key_is_not_found(bank: SimulatedBank) -> None:
    key = new_id()

    response = bank.get(f"/payouts/{key}")

    assert response.status_code == 404
    assert response.json()["code"] == "payout_not_found"
    assert response.json()["key"] == str(key)


def test_a_rejected_payout_pays_nothing(bank: SimulatedBank) -> None:
    key = new_id()

    response = bank.post(key, destination=bank.destination("reject"))

    assert response.json()["status"] == "rejected"
    assert response.json()["reason"] == "account closed"
    assert bank.payments(key) == (0, 0)


@pytest.mark.parametrize(
    ("behaviour", "end", "payments"),
    [("settle_later", "settled", (1, 500)), ("reject_later", "rejected", (0, 0))],
)
def test_a_later_decision_is_made_when_its_time_has_come(
    bank: SimulatedBank, behaviour: str, end: str, payments: tuple[int, int]
) -> None:
    waiting, due = new_id(), new_id()
    later = bank.destination(behaviour, delay_seconds=3600)
    now = bank.destination(behaviour, delay_seconds=0)

    answers = [bank.post(waiting, destination=later), bank.post(due, destination=now)]

    assert [answer.json()["status"] for answer in answers] == ["accepted", "accepted"]
    assert bank.payments(waiting) == (0, 0)
    assert bank.payout(due)["status"] == end
    assert bank.payments(due) == payments


def test_a_failing_bank_records_nothing(bank: SimulatedBank) -> None:
    key = new_id()

    response = bank.post(key, destination=bank.destination("fail"))

    assert response.status_code == 500
    assert bank.payout(key) is None


def test_a_bank_that_fails_after_accepting_has_paid(bank: SimulatedBank) -> None:
    key = new_id()

    response = bank.post(key, destination=bank.destination("fail_after_accept"))

    assert response.status_code == 500
    assert bank.payments(key) == (1, 500)


def test_a_cut_connection_carries_no_answer_and_the_money_has_left(
    bank: SimulatedBank,
) -> None:
    key = new_id()
    destination = bank.destination("cut")

    with pytest.raises(httpx2.TransportError):
        bank.post(key, destination=destination)

    assert bank.payments(key) == (1, 500)


def test_a_rule_with_times_ends_after_so_many_payouts(bank: SimulatedBank) -> None:
    destination = bank.destination("fail", times=2)

    statuses = [
        bank.post(new_id(), destination=destination).status_code for _ in range(3)
    ]

    assert statuses == [500, 500, 201]


def test_control_for_all_applies_until_it_is_cleared(own_bank: SimulatedBank) -> None:
    own_bank.control(behaviour="reject")
    rejected = own_bank.post(new_id())
    own_bank.control(behaviour="settle")
    settled = own_bank.post(new_id())

    assert rejected.json()["status"] == "rejected"
    assert settled.json()["status"] == "settled"
    assert own_bank.get("/control").json() == {"rules": []}


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"behaviour": "explode"},
        {"behaviour": "slow", "delay_seconds": -1},
        {"behaviour": "slow", "delay_seconds": True},
        {"behaviour": "slow", "times": 0},
        {"behaviour": "slow", "destination": ""},
        {"behaviour": "slow", "colour": "red"},
    ],
)
def test_a_malformed_rule_is_refused(
    bank: SimulatedBank, rule: dict[str, object]
) -> None:
    response = bank.control(**rule)

    assert response.status_code == 400
    with pytest.raises(ValueError, match=r"behaviour|delay|times|destination|unknown"):
        parse_rule(rule)


@pytest.mark.parametrize("behaviour", list(Behaviour))
def test_a_destination_may_ask_for_its_own_treatment(behaviour: Behaviour) -> None:
    word = behaviour.replace("_", "-")

    exact, longer = (
        rule_of_destination(f"sim-{word}"),
        rule_of_destination(f"sim-{word}-42"),
    )

    assert exact is not None
    assert longer is not None
    assert exact.behaviour == longer.behaviour == behaviour


@pytest.mark.parametrize("destination", ["reject", "sim-", "sim-rejects", "DE021001"])
def test_other_destinations_ask_for_nothing(destination: str) -> None:
    assert rule_of_destination(destination) is None


def test_killing_the_bank_forgets_nothing(own_bank: SimulatedBank) -> None:
    paid, waiting = new_id(), new_id()
    later = own_bank.destination("settle_later", delay_seconds=3600)
    own_bank.post(paid)
    own_bank.post(waiting, destination=later)

    own_bank.kill()
    own_bank.start()

    assert own_bank.payments(paid) == (1, 500)
    assert own_bank.post(paid).status_code == 200
    assert own_bank.payout(waiting)["status"] == "accepted"
    assert own_bank.get("/control").json()["rules"][0]["destination"] == later


def test_a_bank_that_is_told_to_end_answers_first(own_bank: SimulatedBank) -> None:
    key = new_id()
    destination = own_bank.destination("slow", delay_seconds=30)
    answers = []
    client = threading.Thread(
        target=lambda: answers.append(own_bank.post(key, destination=destination))
    )
    client.start()
    while own_bank.payout(key) is None:  # recorded, and not answered
        pass

    output = own_bank.stop()
    client.join()

    assert answers[0].json()["status"] == "settled"
    assert output.endswith("bank: stopped\n")


def test_the_bank_lists_payouts_newest_first(own_bank: SimulatedBank) -> None:
    keys = [str(new_id()) for _ in range(3)]
    for key in keys:
        own_bank.post(key)

    listed = own_bank.get("/payouts").json()["data"]

    assert [payout["key"] for payout in listed] == keys[::-1]
    assert own_bank.get("/health").json() == {"status": "healthy"}
