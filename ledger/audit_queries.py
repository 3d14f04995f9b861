"""The audit's queries: what each check reads, and when a row breaks it.

Each is a template: ``ledger.audit`` puts in the conditions that bound its slice
(:meth:`SliceBounds.sql`), and every value is a parameter.

Note [Plans]. The planner's statistics are as old as the last ANALYZE. What came after
it, ids beyond any it has seen or a ledger that it does not know, the planner takes for
one row, and any plan for as good as another. So a slice leaves it no bad one:

- Of a table with several indexes, what is in the slice is read with ORDER BY the
  slice's key, and sorting is off: then the index that bounds the slice is the only way.
- What is in the slice is compared with what else is in it by hashing or merging, for
  nested loops are off too.
- What a row names outside is looked up for it, by all columns of the key, in LATERAL
  subqueries and in EXISTS with OFFSET 0. The planner can neither join them otherwise
  nor hash their table; a nested loop is then the only way, and it takes that.

Where there is no other way, a plan may have what is off.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from idempotency.keys import SCHEDULED_PREFIX
from outbox.enums import IN_FLIGHT_STATES

#: Beyond any version: the end of an account's entries.
LAST_VERSION = 2**63 - 1


class SliceBounds:
    """The ends of a slice, as SQL conditions and their parameters.

    Lower ends are exclusive, upper ends inclusive, and an absent end is open, so that
    the slices of a walk cover every key there may be, also of rows that should not be.
    """

    def __init__(self, ledger_id: UUID, **ends: Any) -> None:
        self.ledger_id = ledger_id
        self._ends = {name: end for name, end in ends.items() if end is not None}
        self.parameters: dict[str, Any] = {"ledger_id": ledger_id}
        for name, end in self._ends.items():
            if isinstance(end, tuple):
                self.parameters |= {name: end[0], f"{name}_version": end[1]}
            else:
                self.parameters[name] = end

    def sql(self) -> dict[str, str]:
        """The conditions, by the names that the queries use."""
        return {
            "accounts_in_slice": self._range("a.id", "account", "a"),
            "entries_in_slice": self._range(
                "(e.account_id, e.account_version)", "entry", "e"
            ),
            # With the entry before the first, which the first is compared with.
            "entries_and_previous": self._range(
                "(e.account_id, e.account_version)", "entry", "e", lower=">="
            ),
            "is_in_slice": (
                "(s.account_id, s.account_version)"
                " > (%(entry_after)s, %(entry_after_version)s)"
                if "entry_after" in self._ends
                else "true"
            ),
            "transfers_in_slice": self._range("t.id", "transfer", "t"),
            "transfer_entries_in_slice": self._range("e.transfer_id", "transfer", "e"),
            # Those that tell of a hold have no transfer.
            "transfer_tasks_in_slice": "k.transfer_id IS NOT NULL AND "
            + self._range("k.transfer_id", "transfer", "k"),
            "keys_in_slice": self._range("i.id", "key", "i"),
            "open_from_in_slice": self._range("p.from_account_id", "account", "p"),
            "open_to_in_slice": self._range("p.to_account_id", "account", "p"),
            "limits_in_slice": self._range("v.account_id", "account", "v"),
            "holds_in_slice": self._range("h.id", "hold", "h"),
            "hold_postings_in_slice": self._range("p.hold_id", "hold", "p"),
            "hold_events_in_slice": self._range("v.hold_id", "hold", "v"),
            "captures_in_slice": self._range("t.hold_id", "hold", "t"),
            "reversals_in_slice": self._range(
                "t.reverses_transfer_id", "original", "t"
            ),
            "reversal_totals_in_slice": self._range("r.transfer_id", "original", "r"),
            "usage_in_slice": self._range("u.id", "usage", "u"),
            "scheduled_in_slice": self._range("c.id", "scheduled", "c"),
            "scheduled_prefix": SCHEDULED_PREFIX,
            # Transfers that say where they come from, or should.
            "is_of_origin": "(t.kind NOT IN ('transfer', 'opening_balance', 'exchange')"
            " OR t.reverses_transfer_id IS NOT NULL OR t.hold_id IS NOT NULL"
            " OR t.source_postings IS NOT NULL)",
            "in_flight_states": ", ".join(f"'{state}'" for state in IN_FLIGHT_STATES),
        }

    def _range(self, key: str, name: str, alias: str, *, lower: str = ">") -> str:
        conditions = [f"{alias}.ledger_id = %(ledger_id)s"]
        for end, operator in ((f"{name}_after", lower), (f"{name}_until", "<=")):
            if end not in self._ends:
                continue
            value = f"%({end})s"
            if isinstance(self._ends[end], tuple):
                value = f"(%({end})s, %({end}_version)s)"
            conditions.append(f"{key} {operator} {value}")
        return " AND ".join(conditions)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One question to a slice.

    Attributes:
        checks: the checks that it answers.
        source: a query that has a row for each thing looked at.
        is_broken: whether such a row breaks any of the checks.
        findings: for a broken row, ``VALUES`` of check, whether it is broken, ids,
            expected, actual and difference.
    """

    checks: tuple[str, ...]
    source: str
    is_broken: str
    findings: str


# The first few findings of each check; count and total come once per check and slice.
DETAILS = """
SELECT check_name, ids, expected, actual, difference,
    CASE WHEN number = 1 THEN count END, CASE WHEN number = 1 THEN total END
FROM (
    SELECT f.check_name, f.ids, f.expected, f.actual, f.difference,
        row_number() OVER (PARTITION BY f.check_name) AS number,
        count(*) OVER (PARTITION BY f.check_name) AS count,
        sum(f.difference) OVER (PARTITION BY f.check_name) AS total
    FROM (SELECT * FROM ({source}) AS s WHERE {is_broken} OFFSET 0) AS s
    CROSS JOIN LATERAL (VALUES {findings})
        AS v (check_name, is_broken, ids, expected, actual, raw_difference)
    CROSS JOIN LATERAL (
        SELECT v.check_name, v.ids, coalesce(v.expected, 'none') AS expected,
            coalesce(v.actual, 'none') AS actual,
            greatest(1, abs(coalesce(v.raw_difference, 0))) AS difference) AS f
    WHERE v.is_broken
) AS numbered
WHERE number <= %(cap)s
ORDER BY check_name, number
"""

LEDGER_COLUMNS = {
    "ledger_ledger": "id",
    "ledger_account": "ledger_id",
    "ledger_entry": "ledger_id",
    "ledger_transfer": "ledger_id",
    "ledger_hold": "ledger_id",
    "ledger_hold_posting": "ledger_id",
    "ledger_hold_event": "ledger_id",
    "ledger_reversal_total": "ledger_id",
    "ledger_usage": "ledger_id",
    "ledger_velocity_limit": "ledger_id",
    "ledger_scheduled_transfer": "ledger_id",
    "ledger_asset": "ledger_id",
    "outbox_task": "ledger_id",
    "idempotency_key": "ledger_id",
}
# A loose index scan: from one ledger to the next, however many rows each has.
LEDGERS_OF_TABLE = """
WITH RECURSIVE found AS (
    (SELECT x.{column} AS ledger_id FROM {table} x ORDER BY x.{column} LIMIT 1)
    UNION ALL
    SELECT (SELECT x.{column} FROM {table} x WHERE x.{column} > f.ledger_id
            ORDER BY x.{column} LIMIT 1)
    FROM found f WHERE f.ledger_id IS NOT NULL
)
SELECT f.ledger_id, l.id IS NOT NULL
FROM found f LEFT JOIN ledger_ledger l ON l.id = f.ledger_id
WHERE f.ledger_id IS NOT NULL
"""

ACCOUNT_SUMS = """
SELECT currency, count(*), sum(debits_posted), sum(credits_posted), sum(version)::bigint
FROM ledger_account WHERE ledger_id = %s GROUP BY currency
"""

ENTRY_SUMS = """
SELECT e.currency, coalesce(sum(e.amount) FILTER (WHERE e.direction = 'debit'), 0),
    coalesce(sum(e.amount) FILTER (WHERE e.direction = 'credit'), 0)
FROM (
    SELECT e.currency, e.direction, e.amount FROM ledger_entry e
    WHERE {transfer_entries_in_slice} ORDER BY e.transfer_id
) AS e
GROUP BY e.currency
"""

# What an account's open holds reserve is summed by the indexes on open postings. Lapsed
# holds that no sweep has ended yet are among them: until then they count as pending.
ACCOUNTS = Sweep(
    checks=(
        "account_counters_equal_last_entry",
        "account_pending_equals_holds",
        "account_closed_is_empty",
        "account_with_limits_says_so",
        "payout_balance_is_in_flight",
    ),
    source="""
        SELECT a.id, a.status, a.version, a.debits_posted, a.credits_posted,
            a.last_entry_at, a.debits_pending, a.credits_pending,
            a.credits_posted - a.debits_posted AS net,
            coalesce(l.account_version, 0) AS entry_version,
            coalesce(l.debits_after, 0) AS entry_debits,
            coalesce(l.credits_after, 0) AS entry_credits,
            l.created_at AS entry_at,
            coalesce(f.held, 0) AS held_debits, coalesce(g.held, 0) AS held_credits,
            f.held IS NOT NULL OR g.held IS NOT NULL AS has_holds,
            a.has_velocity_limits, coalesce(v.limits, 0) AS limits,
            CASE WHEN a.payout_destination IS NOT NULL THEN (
                SELECT coalesce(sum(k.amount), 0) FROM outbox_task k
                WHERE k.ledger_id = a.ledger_id AND k.account_id = a.id
                  AND k.state IN ({in_flight_states})) END AS in_flight
        FROM ledger_account a
        LEFT JOIN LATERAL (
            SELECT e.account_version, e.debits_after, e.credits_after, e.created_at
            FROM ledger_entry e
            WHERE e.ledger_id = a.ledger_id AND e.account_id = a.id
            ORDER BY e.account_version DESC LIMIT 1) AS l ON true
        LEFT JOIN (
            SELECT p.from_account_id AS account_id,
                sum(p.amount - least(p.captured, p.amount) - p.released) AS held
            FROM ledger_hold_posting p
            WHERE {open_from_in_slice}
              AND least(p.captured, p.amount) + p.released < p.amount
            GROUP BY p.from_account_id ORDER BY p.from_account_id
            ) AS f ON f.account_id = a.id
        LEFT JOIN (
            SELECT p.to_account_id AS account_id,
                sum(p.amount - least(p.captured, p.amount) - p.released) AS held
            FROM ledger_hold_posting p
            WHERE {open_to_in_slice}
              AND least(p.captured, p.amount) + p.released < p.amount
            GROUP BY p.to_account_id ORDER BY p.to_account_id
            ) AS g ON g.account_id = a.id
        LEFT JOIN (
            SELECT v.account_id, count(*) AS limits FROM ledger_velocity_limit v
            WHERE {limits_in_slice} GROUP BY v.account_id ORDER BY v.account_id
            ) AS v ON v.account_id = a.id
        WHERE {accounts_in_slice}
    """,
    is_broken="""
        version <> entry_version OR debits_posted <> entry_debits
        OR credits_posted <> entry_credits OR last_entry_at IS DISTINCT FROM entry_at
        OR debits_pending <> held_debits OR credits_pending <> held_credits
        OR (status = 'closed' AND (net <> 0 OR has_holds))
        OR has_velocity_limits <> (limits > 0)
        OR net <> in_flight
    """,
    findings="""
        ('account_counters_equal_last_entry',
            version <> entry_version OR debits_posted <> entry_debits
            OR credits_posted <> entry_credits
            OR last_entry_at IS DISTINCT FROM entry_at,
            jsonb_build_object('account_id', id),
            concat_ws(' ', 'version', entry_version, 'debits', entry_debits,
                'credits', entry_credits, 'at', coalesce(entry_at::text, 'no time')),
            concat_ws(' ', 'version', version, 'debits', debits_posted,
                'credits', credits_posted, 'at',
                coalesce(last_entry_at::text, 'no time')),
            abs(debits_posted::numeric - entry_debits)
                + abs(credits_posted::numeric - entry_credits)),
        ('account_pending_equals_holds',
            debits_pending <> held_debits OR credits_pending <> held_credits,
            jsonb_build_object('account_id', id),
            concat_ws(' ', 'debits', held_debits, 'credits', held_credits),
            concat_ws(' ', 'debits', debits_pending, 'credits', credits_pending),
            abs(debits_pending - held_debits) + abs(credits_pending - held_credits)),
        ('account_closed_is_empty', status = 'closed' AND (net <> 0 OR has_holds),
            jsonb_build_object('account_id', id), '0',
            concat_ws(' ', net, 'held', held_debits + held_credits),
            abs(net) + held_debits + held_credits),
        ('account_with_limits_says_so', has_velocity_limits <> (limits > 0),
            jsonb_build_object('account_id', id),
            concat_ws(' ', 'limits:', limits),
            CASE WHEN has_velocity_limits THEN 'says that it has some'
                ELSE 'says that it has none' END, 1),
        ('payout_balance_is_in_flight', net <> in_flight,
            jsonb_build_object('account_id', id), in_flight::text, net::text,
            net - in_flight)
    """,
)

ENTRIES = Sweep(
    checks=(
        "entry_has_account",
        "entry_repeats_currency_of_account",
        "entry_versions_have_no_gaps",
        "entry_totals_follow_previous",
        "entry_time_does_not_decrease",
    ),
    source="""
        SELECT s.*, a.currency AS account_currency, a.id AS found_account_id
        FROM (
            SELECT e.id, e.account_id, e.account_version, e.amount, e.currency,
                e.debits_after, e.credits_after, e.created_at,
                coalesce(lag(e.account_version) OVER w, 0) + 1 AS next_version,
                coalesce(lag(e.debits_after) OVER w, 0)
                    + CASE e.direction WHEN 'debit' THEN e.amount ELSE 0 END AS debits,
                coalesce(lag(e.credits_after) OVER w, 0)
                    + CASE e.direction WHEN 'credit' THEN e.amount ELSE 0 END
                    AS credits,
                lag(e.created_at) OVER w AS previous_at
            FROM ledger_entry e
            WHERE {entries_and_previous}
            WINDOW w AS (PARTITION BY e.account_id ORDER BY e.account_version)
        ) AS s
        LEFT JOIN LATERAL (
            SELECT a.id, a.currency FROM ledger_account a
            WHERE a.ledger_id = %(ledger_id)s AND a.id = s.account_id OFFSET 0
            ) AS a ON true
        WHERE {is_in_slice}
    """,
    is_broken="""
        account_version <> next_version OR debits_after <> debits
        OR credits_after <> credits OR created_at < previous_at
        OR currency IS DISTINCT FROM account_currency
    """,
    # Across a gap nothing can be said of the totals: the gap is the finding.
    findings="""
        ('entry_has_account', found_account_id IS NULL,
            jsonb_build_object('entry_id', id, 'account_id', account_id),
            'an account', 'none', amount::numeric),
        ('entry_repeats_currency_of_account', currency <> account_currency,
            jsonb_build_object('entry_id', id, 'account_id', account_id),
            account_currency, currency, amount::numeric),
        ('entry_versions_have_no_gaps', account_version <> next_version,
            jsonb_build_object('entry_id', id, 'account_id', account_id),
            next_version::text, account_version::text,
            account_version::numeric - next_version),
        ('entry_totals_follow_previous', account_version = next_version
                AND (debits_after <> debits OR credits_after <> credits),
            jsonb_build_object('entry_id', id, 'account_id', account_id,
                'account_version', account_version),
            concat_ws(' ', 'debits', debits, 'credits', credits),
            concat_ws(' ', 'debits', debits_after, 'credits', credits_after),
            abs(debits_after::numeric - debits)
                + abs(credits_after::numeric - credits)),
        ('entry_time_does_not_decrease', created_at < previous_at,
            jsonb_build_object('entry_id', id, 'account_id', account_id,
                'account_version', account_version),
            concat_ws(' ', 'not before', previous_at), created_at::text, 1)
    """,
)

# Note [Scans]. Most of an audit is the entries and the transfers, so a cheap query goes
# over them first and only asks whether anything could be broken; where it says yes, the
# sweep looks at every row again. It must let nothing pass that the sweep would find.

ENTRY_PAGES = """
SELECT pg_relation_size('ledger_entry') / current_setting('block_size')::int
"""

# What ENTRIES asks, of the entries in a range of the table's pages. Read in their
# physical order and sorted in memory they take a fraction of the time of reading them
# in their accounts' order. An entry's place puts those of one ledger, account and
# currency next to each other, and its totals are masked with those three and with its
# version, so that only the entry of the version before is a previous one. An entry that
# is not right behind the previous one is looked up: its account, the previous entry,
# and whether there is another one of its version. (Of two entries of one version, one
# at least has no previous entry in its range, or stands behind its twin.)
#
# A mask is a hash of 64 bits, with a seed that is new in each run. So an entry of
# another ledger, account, currency or version than the one before it is taken for its
# successor once in 2^64, and nobody can choose when; the right one's totals are
# compared as they are.
ENTRY_SCAN = """
SELECT count(*), array_agg(s.suspect) FILTER (WHERE s.suspect IS NOT NULL)
FROM (
    SELECT CASE WHEN s.debits_before = lag(s.debits_after) OVER w
            AND s.credits_before = lag(s.credits_after) OVER w
            AND s.created_at >= lag(s.created_at) OVER w THEN NULL
        ELSE (
            SELECT e.ledger_id FROM ledger_entry e
            CROSS JOIN LATERAL (
                SELECT CASE e.direction WHEN 'debit' THEN e.amount ELSE 0 END AS debit,
                    CASE e.direction WHEN 'credit' THEN e.amount ELSE 0 END AS credit
                ) AS m
            WHERE e.ctid = s.tid AND (
                EXISTS (
                    SELECT FROM ledger_account a
                    WHERE a.ledger_id = e.ledger_id AND a.id = e.account_id
                      AND a.currency = e.currency OFFSET 0)
                AND (
                    SELECT count(*) FILTER (
                            WHERE p.account_version = e.account_version) = 1
                        AND CASE WHEN e.account_version = 1
                            THEN count(*) = 1 AND e.debits_after = m.debit
                                AND e.credits_after = m.credit
                            ELSE bool_or(p.account_version < e.account_version
                                AND e.debits_after = p.debits_after + m.debit
                                AND e.credits_after = p.credits_after + m.credit
                                AND e.created_at >= p.created_at) END
                    FROM ledger_entry p
                    WHERE p.ledger_id = e.ledger_id AND p.account_id = e.account_id
                      AND p.account_version
                          BETWEEN e.account_version - 1 AND e.account_version)
            ) IS NOT TRUE) END AS suspect
    FROM (
        SELECT e.tid, e.created_at,
            e.mask << 32 | (e.account_version & 2147483647) AS place,
            e.debits_after # hashint8extended(e.account_version, e.mask)
                AS debits_after,
            (e.debits_after - e.debit)
                # hashint8extended(e.account_version - 1, e.mask) AS debits_before,
            e.credits_after, e.credits_after - e.credit AS credits_before
        FROM (
            SELECT e.ctid AS tid, e.created_at, e.account_version,
                e.debits_after, e.credits_after,
                CASE e.direction WHEN 'debit' THEN e.amount ELSE 0 END AS debit,
                CASE e.direction WHEN 'credit' THEN e.amount ELSE 0 END AS credit,
                -- Versions 2^31 apart share a place, but not a mask.
                uuid_hash_extended(e.account_id, uuid_hash_extended(e.ledger_id,
                    hashtextextended(e.currency,
                        %(seed)s # (e.account_version >> 31)))) AS mask
            FROM ledger_entry e
            WHERE e.ctid >= format('(%%s,0)', %(page)s::bigint)::tid
              AND e.ctid < format('(%%s,0)', %(end_page)s::bigint)::tid
            OFFSET 0
        ) AS e
        OFFSET 0
    ) AS s
    WINDOW w AS (ORDER BY s.place)
) AS s
"""

# What TRANSFERS asks: how many transfers, entries, transfers that COMPLETIONS looks at,
# and payout tasks there are, and whether anything could be broken. If every posting has
# a transfer and a number within its count, if as many postings have number 1 as there
# are transfers, and if there are as many postings as those transfers count, then each
# transfer has exactly its own. Two numbers are equal if, and only if, their XOR is 0;
# of a debit and a credit it is the seed, which tells them apart. The ids of transfers
# and of their tasks are the same if the sums of their hashes are: other ones have the
# same sum once in 2^64, and nobody can choose when.
TRANSFER_SCAN = """
SELECT t.transfers, e.entries, e.origins, k.payouts,
    e.is_broken OR k.is_broken OR e.firsts <> t.transfers OR e.postings <> e.expected
        OR k.posted <> t.transfers OR k.posted_ids IS DISTINCT FROM e.ids
        OR e.last_created_at > statement_timestamp() + interval '1 minute'
FROM (
    SELECT count(*) AS transfers FROM ledger_transfer t WHERE {transfers_in_slice}
) AS t
CROSS JOIN (
    SELECT count(*) AS postings, coalesce(sum(p.entries), 0)::bigint AS entries,
        count(*) FILTER (WHERE p.posting_number = 1) AS firsts,
        coalesce(sum(t.posting_count) FILTER (WHERE p.posting_number = 1), 0)
            AS expected,
        count(*) FILTER (WHERE p.posting_number = 1 AND t.is_of_origin) AS origins,
        sum(uuid_hash_extended(t.id, %(seed)s)) FILTER (WHERE p.posting_number = 1)
            AS ids,
        max(t.created_at) AS last_created_at,
        coalesce(bool_or((p.is_pair AND p.posting_number BETWEEN 1 AND t.posting_count
            AND p.first_created_at = t.created_at AND p.last_created_at = t.created_at
            AND p.first_effective_at = t.effective_at
            AND p.last_effective_at = t.effective_at) IS NOT TRUE), false) AS is_broken
    FROM (
        SELECT e.transfer_id, e.posting_number, count(*) AS entries,
            count(*) = 2
                AND bit_xor(e.amount # hashtextextended(e.currency, %(seed)s)
                    # CASE e.direction WHEN 'debit' THEN 0 WHEN 'credit' THEN %(seed)s
                        END) = %(seed)s
                AND bit_xor(uuid_hash_extended(e.account_id, %(seed)s)) <> 0 AS is_pair,
            min(e.created_at) AS first_created_at, max(e.created_at) AS last_created_at,
            min(e.effective_at) AS first_effective_at,
            max(e.effective_at) AS last_effective_at
        FROM ledger_entry e WHERE {transfer_entries_in_slice}
        GROUP BY e.transfer_id, e.posting_number
        ORDER BY e.transfer_id, e.posting_number
    ) AS p
    LEFT JOIN (
        -- In no order of its own, so that its key is seen to be unique: joined with
        -- what may have two rows of one id, the postings would be kept.
        SELECT t.id, t.posting_count, t.created_at, t.effective_at,
            {is_of_origin} AS is_of_origin
        FROM ledger_transfer t WHERE {transfers_in_slice}
    ) AS t ON t.id = p.transfer_id
) AS e
CROSS JOIN (
    SELECT count(*) FILTER (WHERE k.kind = 'transfer.posted') AS posted,
        count(*) FILTER (WHERE k.kind = 'payout') AS payouts,
        sum(uuid_hash_extended(k.transfer_id, %(seed)s))
            FILTER (WHERE k.kind = 'transfer.posted') AS posted_ids,
        coalesce(bool_or(CASE WHEN k.kind <> 'transfer.posted' THEN NOT EXISTS (
            SELECT FROM ledger_transfer t
            WHERE t.ledger_id = %(ledger_id)s AND t.id = k.transfer_id OFFSET 0)
            END), false) AS is_broken
    FROM (
        SELECT k.transfer_id, k.kind FROM outbox_task k
        WHERE {transfer_tasks_in_slice} ORDER BY k.transfer_id
    ) AS k
) AS k
"""

# Accounts that are payout accounts, or were: postings into them have payout tasks.
PAYOUT_ACCOUNTS = """
SELECT a.id, a.version FROM ledger_account a
WHERE {accounts_in_slice} AND (
    a.payout_destination IS NOT NULL
    OR EXISTS (
        SELECT 1 FROM ledger_change c
        WHERE c.ledger_id = a.ledger_id AND c.account_id = a.id
          AND c.fields ? 'payout_destination' OFFSET 0))
"""

# Note [Role of then]. Whether a posting went into a payout account is asked of the
# account's history: the last change of its destination before the entry says what it
# was from then on, else the first one after it says what it had been, else it is what
# it is now. A change is recorded under the account's lock, as entries are, so their
# times do not overlap. Where the values are erased only the present is known.
PAYOUT_POSTINGS = Sweep(
    checks=("payout_posting_has_task",),
    source="""
        SELECT e.id, e.account_id, e.transfer_id, e.posting_number, e.amount,
            k.id AS task_id, k.destination AS task_destination, r.is_known,
            r.destination
        FROM unnest(%(account_ids)s::uuid[], %(afters)s::bigint[], %(untils)s::bigint[])
            AS x (account_id, version_after, version_until)
        CROSS JOIN LATERAL (
            SELECT e.* FROM ledger_entry e
            WHERE e.ledger_id = %(ledger_id)s AND e.account_id = x.account_id
              AND e.account_version > x.version_after
              AND e.account_version <= x.version_until AND e.direction = 'credit'
            ORDER BY e.account_version OFFSET 0) AS e
        CROSS JOIN LATERAL (
            SELECT a.payout_destination FROM ledger_account a
            WHERE a.ledger_id = e.ledger_id AND a.id = e.account_id OFFSET 0) AS a
        LEFT JOIN LATERAL (
            SELECT k.id, k.destination FROM outbox_task k
            WHERE k.ledger_id = e.ledger_id AND k.transfer_id = e.transfer_id
              AND k.kind = 'payout' AND k.posting_number = e.posting_number OFFSET 0
            ) AS k ON true
        LEFT JOIN LATERAL (
            SELECT true AS is_there, c.erased_at IS NULL AS is_readable,
                c.new ->> 'payout_destination' AS destination
            FROM ledger_change c
            WHERE c.ledger_id = e.ledger_id AND c.account_id = e.account_id
              AND c.fields ? 'payout_destination' AND c.created_at <= e.created_at
            ORDER BY c.created_at DESC, c.id DESC LIMIT 1) AS before ON true
        LEFT JOIN LATERAL (
            SELECT true AS is_there, c.erased_at IS NULL AS is_readable,
                c.old ->> 'payout_destination' AS destination
            FROM ledger_change c
            WHERE c.ledger_id = e.ledger_id AND c.account_id = e.account_id
              AND c.fields ? 'payout_destination' AND c.created_at > e.created_at
            ORDER BY c.created_at, c.id LIMIT 1) AS after ON true
        CROSS JOIN LATERAL (
            SELECT
                before.is_readable IS TRUE OR after.is_readable IS TRUE
                    OR after.is_there IS NULL AS is_known,
                CASE WHEN before.is_readable THEN before.destination
                    WHEN after.is_readable THEN after.destination
                    WHEN after.is_there IS NULL THEN a.payout_destination
                    END AS destination
        ) AS r
    """,
    is_broken="""
        is_known AND ((destination IS NULL) <> (task_id IS NULL)
                      OR destination <> task_destination)
    """,
    findings="""
        ('payout_posting_has_task', (destination IS NULL) <> (task_id IS NULL),
            jsonb_build_object('account_id', account_id, 'transfer_id', transfer_id,
                'posting_number', posting_number),
            CASE WHEN destination IS NULL THEN 'no task' ELSE 'a payout task' END,
            CASE WHEN task_id IS NULL THEN 'no task' ELSE 'task ' || task_id END,
            amount::numeric),
        ('payout_task_matches_posting', destination <> task_destination,
            jsonb_build_object('task_id', task_id, 'account_id', account_id,
                'transfer_id', transfer_id, 'posting_number', posting_number),
            'the destination of that time', 'another destination', amount::numeric)
    """,
)

ENTRY_SLICE_END = """
SELECT e.account_id, e.account_version FROM ledger_entry e WHERE {entries_in_slice}
ORDER BY e.ledger_id, e.account_id, e.account_version OFFSET %(offset)s LIMIT 1
"""

ACCOUNT_SLICE_END = """
SELECT least(
    (SELECT a.id FROM ledger_account a WHERE {accounts_in_slice}
        ORDER BY a.ledger_id, a.id OFFSET %(offset)s LIMIT 1),
    (SELECT p.from_account_id FROM ledger_hold_posting p
        WHERE {open_from_in_slice}
          AND least(p.captured, p.amount) + p.released < p.amount
        ORDER BY p.ledger_id, p.from_account_id OFFSET %(offset)s LIMIT 1),
    (SELECT p.to_account_id FROM ledger_hold_posting p
        WHERE {open_to_in_slice}
          AND least(p.captured, p.amount) + p.released < p.amount
        ORDER BY p.ledger_id, p.to_account_id OFFSET %(offset)s LIMIT 1))
"""

LAST_ENTRY_OF_ACCOUNT = """
SELECT coalesce((
    SELECT account_version FROM ledger_entry WHERE ledger_id = %s AND account_id = %s
    ORDER BY account_version DESC LIMIT 1), 0)
"""

LAST_TRANSFER = """
SELECT greatest(
    (SELECT id FROM ledger_transfer WHERE ledger_id = %(ledger_id)s
        ORDER BY ledger_id DESC, id DESC LIMIT 1),
    (SELECT transfer_id FROM ledger_entry WHERE ledger_id = %(ledger_id)s
        ORDER BY ledger_id DESC, transfer_id DESC LIMIT 1),
    (SELECT transfer_id FROM outbox_task
        WHERE ledger_id = %(ledger_id)s AND transfer_id IS NOT NULL
        ORDER BY ledger_id DESC, transfer_id DESC LIMIT 1))
"""

LAST_KEY = """
SELECT id FROM idempotency_key WHERE ledger_id = %(ledger_id)s
ORDER BY ledger_id DESC, id DESC LIMIT 1
"""

KEY_SLICE_END = """
SELECT i.id FROM idempotency_key i WHERE {keys_in_slice}
ORDER BY i.ledger_id, i.id OFFSET %(offset)s LIMIT 1
"""

# By the entries, of which a transfer may have many. What else has the ids of a slice, a
# transfer and its tasks, is no more than they are, or there by mistake.
TRANSFER_SLICE_END = """
SELECT e.transfer_id FROM ledger_entry e WHERE {transfer_entries_in_slice}
ORDER BY e.ledger_id, e.transfer_id OFFSET %(offset)s LIMIT 1
"""

# Accounts are compared by hash, because min(uuid) is new in PostgreSQL 18.
TRANSFERS = Sweep(
    checks=(
        "entry_has_transfer",
        "transfer_has_entries",
        "transfer_entries_are_its_postings",
        "entry_repeats_times_of_transfer",
        "transfer_not_recorded_in_future",
        "transfer_has_posted_task",
        "task_has_transfer",
    ),
    source="""
        SELECT t.id, t.posting_count, t.created_at, t.effective_at,
            e.transfer_id AS entry_transfer_id, e.entry_count, e.amount, e.imbalance,
            e.is_unpaired OR e.first_number <> 1 OR e.last_number <> e.number_count
                OR e.number_count <> t.posting_count AS is_unlike_postings,
            e.first_created_at <> t.created_at OR e.last_created_at <> t.created_at
                OR e.first_effective_at <> t.effective_at
                OR e.last_effective_at <> t.effective_at AS has_other_times,
            k.transfer_id AS task_transfer_id, coalesce(k.posted, 0) AS posted
        FROM (
            SELECT t.id, t.posting_count, t.created_at, t.effective_at
            FROM ledger_transfer t WHERE {transfers_in_slice}
        ) AS t
        FULL JOIN (
            SELECT p.transfer_id, sum(p.entry_count) AS entry_count,
                sum(p.amount) AS amount, sum(abs(p.imbalance)) AS imbalance,
                bool_or(p.is_unpaired) AS is_unpaired,
                count(*) AS number_count,
                min(p.posting_number) AS first_number,
                max(p.posting_number) AS last_number,
                min(p.first_created_at) AS first_created_at,
                max(p.last_created_at) AS last_created_at,
                min(p.first_effective_at) AS first_effective_at,
                max(p.last_effective_at) AS last_effective_at
            FROM (
                SELECT e.transfer_id, e.posting_number, count(*) AS entry_count,
                    max(e.amount) AS amount,
                    sum(CASE e.direction WHEN 'debit' THEN e.amount ELSE -e.amount END)
                        AS imbalance,
                    count(*) <> 2
                        OR count(*) FILTER (WHERE e.direction = 'debit') <> 1
                        OR count(*) FILTER (WHERE e.direction = 'credit') <> 1
                        OR min(e.amount) <> max(e.amount)
                        OR min(e.currency) <> max(e.currency)
                        OR min(uuid_hash_extended(e.account_id, 0))
                            = max(uuid_hash_extended(e.account_id, 0)) AS is_unpaired,
                    min(e.created_at) AS first_created_at,
                    max(e.created_at) AS last_created_at,
                    min(e.effective_at) AS first_effective_at,
                    max(e.effective_at) AS last_effective_at
                FROM ledger_entry e WHERE {transfer_entries_in_slice}
                GROUP BY e.transfer_id, e.posting_number
                ORDER BY e.transfer_id, e.posting_number
            ) AS p
            GROUP BY p.transfer_id
        ) AS e ON e.transfer_id = t.id
        FULL JOIN (
            SELECT k.transfer_id,
                count(*) FILTER (WHERE k.kind = 'transfer.posted') AS posted
            FROM outbox_task k WHERE {transfer_tasks_in_slice}
            GROUP BY k.transfer_id ORDER BY k.transfer_id
        ) AS k ON k.transfer_id = t.id
    """,
    is_broken="""
        id IS NULL OR entry_transfer_id IS NULL OR is_unlike_postings
        OR has_other_times OR posted <> 1
        OR created_at > clock_timestamp() + interval '1 minute'
    """,
    findings="""
        ('entry_has_transfer', id IS NULL AND entry_transfer_id IS NOT NULL,
            jsonb_build_object('transfer_id', entry_transfer_id),
            'a transfer', 'entries only: ' || entry_count, amount::numeric),
        ('task_has_transfer', id IS NULL AND task_transfer_id IS NOT NULL,
            jsonb_build_object('transfer_id', task_transfer_id),
            'a transfer', 'tasks only', 1),
        ('transfer_has_entries', id IS NOT NULL AND entry_transfer_id IS NULL,
            jsonb_build_object('transfer_id', id),
            'entries of postings: ' || posting_count, 'none', posting_count),
        ('transfer_entries_are_its_postings', is_unlike_postings,
            jsonb_build_object('transfer_id', id),
            'postings of one debit and one credit each: ' || posting_count,
            'entries: ' || entry_count || ', debits and credits differ by '
                || imbalance,
            imbalance),
        ('entry_repeats_times_of_transfer', has_other_times,
            jsonb_build_object('transfer_id', id),
            concat_ws(' ', 'effective', effective_at, 'recorded', created_at),
            'other times', 1),
        ('transfer_not_recorded_in_future',
            created_at > clock_timestamp() + interval '1 minute',
            jsonb_build_object('transfer_id', id), 'by now', created_at::text, 1),
        ('transfer_has_posted_task', id IS NOT NULL AND posted <> 1,
            jsonb_build_object('transfer_id', id), '1', posted::text, posted - 1)
    """,
)

COMPLETIONS = Sweep(
    checks=(
        "transfer_states_its_origin",
        "transfer_reverses_existing",
        "completion_ends_one_payout",
    ),
    source="""
        SELECT t.id, t.kind, t.reverses_transfer_id, r.id AS reversed_id,
            (t.kind = 'capture') <> (t.hold_id IS NOT NULL)
                OR (t.kind IN ('reversal', 'payout_reversal'))
                    <> (t.reverses_transfer_id IS NOT NULL)
                OR CASE WHEN t.hold_id IS NULL AND t.reverses_transfer_id IS NULL
                    THEN t.source_postings IS NOT NULL
                    ELSE cardinality(t.source_postings)
                        IS DISTINCT FROM t.posting_count END AS is_of_unclear_origin,
            t.kind IN ('settlement', 'payout_reversal') AND NOT EXISTS (
                SELECT 1 FROM outbox_task k
                WHERE k.ledger_id = t.ledger_id AND k.completion_transfer_id = t.id
                  AND k.kind = 'payout' AND k.state = 'done'
                  AND k.id = CASE
                    WHEN t.metadata ->> 'payout_task_id' ~ '^[0-9a-f-]{{36}}$'
                    THEN (t.metadata ->> 'payout_task_id')::uuid END OFFSET 0)
            AND NOT EXISTS (
                SELECT 1 FROM outbox_task k
                WHERE k.ledger_id = t.ledger_id AND k.completion_transfer_id = t.id
                  AND k.kind = 'payout' AND k.state = 'cancelled'
                  AND k.transfer_id = t.reverses_transfer_id OFFSET 0) AS ends_nothing
        FROM ledger_transfer t
        LEFT JOIN LATERAL (
            SELECT r.id FROM ledger_transfer r
            WHERE r.ledger_id = t.ledger_id AND r.id = t.reverses_transfer_id OFFSET 0
            ) AS r ON true
        WHERE {transfers_in_slice} AND {is_of_origin}
    """,
    is_broken="""
        is_of_unclear_origin OR ends_nothing
        OR (reverses_transfer_id IS NOT NULL AND reversed_id IS NULL)
    """,
    findings="""
        ('transfer_states_its_origin', is_of_unclear_origin,
            jsonb_build_object('transfer_id', id),
            'what it comes from, for each posting, if it is a capture or a reversal',
            'a ' || kind || ' of something else', 1),
        ('transfer_reverses_existing',
            reverses_transfer_id IS NOT NULL AND reversed_id IS NULL,
            jsonb_build_object('transfer_id', id,
                'reverses_transfer_id', reverses_transfer_id),
            'a transfer', 'none', 1),
        ('completion_ends_one_payout', ends_nothing,
            jsonb_build_object('transfer_id', id),
            'a payout that it ended', 'none', 1)
    """,
)

# Note [Closed then]. What was closed when a transfer was recorded is asked of the
# ledger's history. Closing waits for the backdated transfers under way, and they for
# it, so of a change and a transfer the later one has the later time; but a transfer may
# be recorded up to a minute ahead of the clock. So it is a finding if its time was
# closed during the whole minute before. What an erased change said is taken for open.
CLOSINGS = """
SELECT array_agg(c.starts_at), array_agg(c.ends_at), array_agg(c.closed_before)
FROM (
    SELECT c.created_at AS starts_at,
        lead(c.created_at) OVER w AS ends_at,
        (c.new ->> 'closed_before')::timestamptz AS closed_before
    FROM ledger_change c
    WHERE c.ledger_id = %(ledger_id)s AND c.account_id IS NULL
      AND c.fields @> '["closed_before"]'
    WINDOW w AS (ORDER BY c.created_at, c.id)
) AS c
"""

PERIODS = Sweep(
    checks=("transfer_effective_in_open_period",),
    source="""
        SELECT t.id, t.effective_at, t.created_at,
            t.created_at - interval '1 minute'
                >= (%(closing_starts)s::timestamptz[])[1]
            AND NOT EXISTS (
                SELECT FROM unnest(%(closing_starts)s::timestamptz[],
                    %(closing_ends)s::timestamptz[], %(closing_befores)s::timestamptz[]
                    ) AS c (starts_at, ends_at, closed_before)
                WHERE c.starts_at <= t.created_at
                  AND coalesce(c.ends_at > t.created_at - interval '1 minute', true)
                  AND coalesce(c.closed_before <= t.effective_at, true)
            ) AS is_in_closed_period
        FROM ledger_transfer t
        WHERE {transfers_in_slice}
          AND t.effective_at < t.created_at - interval '30 minutes'
    """,
    is_broken="is_in_closed_period",
    findings="""
        ('transfer_effective_in_open_period', is_in_closed_period,
            jsonb_build_object('transfer_id', id), 'effective in an open period',
            concat_ws(' ', 'effective', effective_at, 'recorded', created_at), 1)
    """,
)

PAYOUT_TASKS = Sweep(
    checks=("payout_task_matches_posting", "payout_end_has_completion"),
    source="""
        SELECT k.id, k.transfer_id, k.posting_number, k.account_id, k.amount,
            k.currency, k.state, k.delivery, k.completion_transfer_id,
            count(*) OVER (PARTITION BY k.transfer_id, k.posting_number) AS copies,
            e.account_id AS entry_account_id, e.amount AS entry_amount,
            e.currency AS entry_currency,
            k.state IN ({in_flight_states}) AND a.payout_destination IS NULL
                AS is_in_flight_elsewhere,
            k.state IN ('done', 'cancelled') AND NOT EXISTS (
                SELECT 1 FROM ledger_transfer c
                CROSS JOIN LATERAL (
                    SELECT e.account_id, e.amount, e.currency, e.posting_number
                    FROM ledger_entry e
                    WHERE e.ledger_id = c.ledger_id AND e.transfer_id = c.id
                      AND e.direction = 'debit' OFFSET 0) AS d
                CROSS JOIN LATERAL (
                    SELECT e.account_id FROM ledger_entry e
                    WHERE e.ledger_id = c.ledger_id AND e.transfer_id = c.id
                      AND e.posting_number = d.posting_number
                      AND e.direction = 'credit' OFFSET 0) AS b
                LEFT JOIN LATERAL (
                    SELECT e.account_id FROM ledger_entry e
                    WHERE e.ledger_id = k.ledger_id AND e.transfer_id = k.transfer_id
                      AND e.posting_number = k.posting_number
                      AND e.direction = 'debit' OFFSET 0) AS o ON true
                WHERE c.ledger_id = k.ledger_id AND c.id = k.completion_transfer_id
                  AND d.account_id = k.account_id AND d.amount = k.amount
                  AND d.currency = k.currency
                  AND CASE WHEN k.state = 'done' AND k.delivery = 'settled'
                    THEN c.kind = 'settlement'
                    ELSE c.kind = 'payout_reversal'
                        AND c.reverses_transfer_id = k.transfer_id
                        AND b.account_id = o.account_id END
                  AND (k.state = 'cancelled'
                       OR c.metadata ->> 'payout_task_id' = k.id::text)
                OFFSET 0) AS lacks_completion
        FROM outbox_task k
        LEFT JOIN LATERAL (
            SELECT e.account_id, e.amount, e.currency FROM ledger_entry e
            WHERE e.ledger_id = k.ledger_id AND e.transfer_id = k.transfer_id
              AND e.posting_number = k.posting_number AND e.direction = 'credit'
            OFFSET 0) AS e ON true
        LEFT JOIN LATERAL (
            SELECT a.payout_destination FROM ledger_account a
            WHERE a.ledger_id = k.ledger_id AND a.id = k.account_id OFFSET 0
            ) AS a ON true
        WHERE {transfer_tasks_in_slice} AND k.kind = 'payout'
        ORDER BY k.transfer_id
    """,
    is_broken="""
        copies <> 1 OR lacks_completion OR is_in_flight_elsewhere
        OR (account_id, amount, currency)
            IS DISTINCT FROM (entry_account_id, entry_amount, entry_currency)
    """,
    findings="""
        ('payout_task_matches_posting', copies <> 1
                OR (account_id, amount, currency)
                    IS DISTINCT FROM (entry_account_id, entry_amount, entry_currency),
            jsonb_build_object('task_id', id, 'transfer_id', transfer_id,
                'posting_number', posting_number),
            CASE WHEN entry_account_id IS NULL THEN 'a posting' ELSE
                concat_ws(' ', entry_amount, entry_currency, 'on', entry_account_id)
                END,
            concat_ws(' ', amount, currency, 'on', account_id, 'in tasks:', copies),
            coalesce(nullif(amount::numeric - entry_amount, 0), amount)),
        ('payout_end_has_completion', lacks_completion,
            jsonb_build_object('task_id', id, 'transfer_id', transfer_id,
                'completion_transfer_id', completion_transfer_id),
            CASE WHEN state = 'done' AND delivery = 'settled'
                THEN 'its settlement' ELSE 'its reversal' END,
            'no such transfer', amount::numeric),
        ('payout_balance_is_in_flight', is_in_flight_elsewhere,
            jsonb_build_object('task_id', id, 'account_id', account_id),
            'a payout account', 'none', amount::numeric)
    """,
)

#: What an idempotency key can have made, and where it is.
KEY_RESOURCES = {
    "transfer": "ledger_transfer",
    "account": "ledger_account",
    "limits": "ledger_account",
    "hold": "ledger_hold",
    "scheduled_transfer": "ledger_scheduled_transfer",
    "asset": "ledger_asset",
}
_LACKS_RESOURCE = "\n".join(
    f"WHEN '{resource_type}' THEN NOT EXISTS (SELECT FROM {table} x"
    " WHERE x.ledger_id = i.ledger_id AND x.id = i.resource_id OFFSET 0)"
    for resource_type, table in KEY_RESOURCES.items()
)

KEYS = Sweep(
    checks=("idempotency_key_has_resource",),
    source=f"""
        SELECT i.id, i.resource_type, i.resource_id,
            CASE i.resource_type {_LACKS_RESOURCE} ELSE false END AS lacks_resource
        FROM idempotency_key i
        WHERE {{keys_in_slice}}
        ORDER BY i.id
    """,  # noqa: S608 - the table above, and nothing from outside
    is_broken="lacks_resource",
    findings="""
        ('idempotency_key_has_resource', lacks_resource,
            jsonb_build_object('idempotency_key_id', id, 'resource_id', resource_id),
            resource_type, 'none', 1)
    """,
)

LAST_SCHEDULED = """
SELECT id FROM ledger_scheduled_transfer WHERE ledger_id = %(ledger_id)s
ORDER BY ledger_id DESC, id DESC LIMIT 1
"""

SCHEDULED_SLICE_END = """
SELECT c.id FROM ledger_scheduled_transfer c WHERE {scheduled_in_slice}
ORDER BY c.ledger_id, c.id OFFSET %(offset)s LIMIT 1
"""

SCHEDULED = Sweep(
    checks=("scheduled_posted_has_transfer",),
    source="""
        SELECT c.id, c.status, c.transfer_id,
            (c.status = 'posted') <> (c.transfer_id IS NOT NULL)
            OR (c.transfer_id IS NOT NULL AND (
                t.id IS NULL OR t.kind <> 'transfer'
                OR t.idempotency_key IS DISTINCT FROM '{scheduled_prefix}' || c.id
                OR t.posting_count <> jsonb_array_length(c.postings)
                OR EXISTS (
                    SELECT FROM jsonb_array_elements(c.postings)
                        WITH ORDINALITY AS p (posting, number)
                    CROSS JOIN LATERAL (VALUES
                        ('debit', p.posting ->> 'from_account_id'),
                        ('credit', p.posting ->> 'to_account_id')
                    ) AS x (direction, account_id)
                    LEFT JOIN LATERAL (
                        SELECT e.account_id, e.amount FROM ledger_entry e
                        WHERE e.ledger_id = c.ledger_id
                          AND e.transfer_id = c.transfer_id
                          AND e.posting_number = p.number
                          AND e.direction = x.direction OFFSET 0) AS e ON true
                    WHERE e.account_id::text IS DISTINCT FROM x.account_id
                       OR e.amount::text IS DISTINCT FROM p.posting ->> 'amount'
                    OFFSET 0)
            )) AS has_other_transfer
        FROM ledger_scheduled_transfer c
        LEFT JOIN LATERAL (
            SELECT t.id, t.kind, t.idempotency_key, t.posting_count
            FROM ledger_transfer t
            WHERE t.ledger_id = c.ledger_id AND t.id = c.transfer_id OFFSET 0
            ) AS t ON true
        WHERE {scheduled_in_slice}
        ORDER BY c.id
    """,
    is_broken="has_other_transfer",
    findings="""
        ('scheduled_posted_has_transfer', has_other_transfer,
            jsonb_build_object('scheduled_transfer_id', id, 'transfer_id', transfer_id),
            CASE status WHEN 'posted' THEN 'its transfer' ELSE 'no transfer' END,
            CASE WHEN transfer_id IS NULL THEN 'none' ELSE 'another' END, 1)
    """,
)

LAST_USAGE = """
SELECT id FROM ledger_usage WHERE ledger_id = %(ledger_id)s
ORDER BY ledger_id DESC, id DESC LIMIT 1
"""

USAGE_SLICE_END = """
SELECT u.id FROM ledger_usage u WHERE {usage_in_slice}
ORDER BY u.ledger_id, u.id OFFSET %(offset)s LIMIT 1
"""

USAGE = Sweep(
    checks=("usage_totals_never_decrease",),
    source="""
        SELECT u.id, u.account_id, u.created_at, u.out_amount, u.out_count, u.in_amount,
            u.in_count, p.created_at AS previous_at, p.out_amount AS out_before,
            p.in_amount AS in_before,
            u.out_amount < coalesce(p.out_amount, 0)
                OR u.out_count < coalesce(p.out_count, 0)
                OR u.in_amount < coalesce(p.in_amount, 0)
                OR u.in_count < coalesce(p.in_count, 0) AS falls
        FROM ledger_usage u
        LEFT JOIN LATERAL (
            SELECT p.created_at, p.out_amount, p.out_count, p.in_amount, p.in_count
            FROM ledger_usage p
            WHERE p.ledger_id = u.ledger_id AND p.account_id = u.account_id
              AND p.created_at < u.created_at
            ORDER BY p.created_at DESC LIMIT 1) AS p ON true
        WHERE {usage_in_slice}
        ORDER BY u.id
    """,
    is_broken="falls",
    findings="""
        ('usage_totals_never_decrease', falls,
            jsonb_build_object('usage_id', id, 'account_id', account_id),
            concat_ws(' ', 'out', out_before, 'in', in_before, 'or more, as at',
                previous_at),
            concat_ws(' ', 'out', out_amount, 'in', in_amount, 'at', created_at),
            greatest(coalesce(out_before, 0) - out_amount, 0)
                + greatest(coalesce(in_before, 0) - in_amount, 0))
    """,
)
