"""The audit's queries about holds, and about transfers that come from something.

They go by the hold, or by the transfer that is reversed: whatever names it is compared
in one snapshot, and books without any cost nothing. Like those of
``ledger.audit_queries`` they are templates for ``SliceBounds.sql``, and keep to its
Note [Plans].
"""

from ledger.audit_queries import Sweep

LAST_HOLD = """
SELECT greatest(
    (SELECT id FROM ledger_hold WHERE ledger_id = %(ledger_id)s
        ORDER BY ledger_id DESC, id DESC LIMIT 1),
    (SELECT hold_id FROM ledger_hold_posting WHERE ledger_id = %(ledger_id)s
        ORDER BY ledger_id DESC, hold_id DESC LIMIT 1),
    (SELECT hold_id FROM ledger_hold_event WHERE ledger_id = %(ledger_id)s
        ORDER BY ledger_id DESC, hold_id DESC LIMIT 1),
    (SELECT hold_id FROM ledger_transfer
        WHERE ledger_id = %(ledger_id)s AND hold_id IS NOT NULL
        ORDER BY ledger_id DESC, hold_id DESC LIMIT 1))
"""

HOLD_SLICE_END = """
SELECT least(
    (SELECT h.id FROM ledger_hold h WHERE {holds_in_slice}
        ORDER BY h.ledger_id, h.id OFFSET %(offset)s LIMIT 1),
    (SELECT p.hold_id FROM ledger_hold_posting p WHERE {hold_postings_in_slice}
        ORDER BY p.ledger_id, p.hold_id OFFSET %(offset)s LIMIT 1),
    (SELECT v.hold_id FROM ledger_hold_event v WHERE {hold_events_in_slice}
        ORDER BY v.ledger_id, v.hold_id OFFSET %(offset)s LIMIT 1),
    (SELECT t.hold_id FROM ledger_transfer t
        WHERE {captures_in_slice} AND t.hold_id IS NOT NULL
        ORDER BY t.ledger_id, t.hold_id OFFSET %(offset)s LIMIT 1))
"""

HOLDS = Sweep(
    checks=(
        "hold_comes_with_its_postings",
        "hold_is_active_while_it_holds",
        "hold_expires_when_it_has_lapsed",
        "hold_postings_expire_together",
        "hold_events_tell_its_history",
    ),
    source="""
        SELECT h.id, h.status, h.posting_count, h.expires_at, h.ended_at,
            coalesce(p.hold_id, v.hold_id) AS named_id, p.hold_id AS posting_hold_id,
            p.amount, p.held, p.captured, p.released,
            p.number_count IS DISTINCT FROM h.posting_count
                OR p.row_count <> h.posting_count OR p.first_number <> 1
                OR p.last_number <> h.posting_count OR p.is_misplaced
                OR p.first_created_at <> h.created_at
                OR p.last_created_at <> h.created_at AS is_unlike_postings,
            h.status NOT IN ('active', 'captured', 'voided', 'expired')
                OR (h.status = 'active') <> (p.held > 0)
                OR (h.status = 'active') <> (h.ended_at IS NULL)
                OR (h.status = 'captured' AND p.captured = 0) AS has_other_status,
            p.first_expires_at <> h.expires_at OR p.last_expires_at <> h.expires_at
                AS expires_apart,
            coalesce(v.placed, 0) AS placed, coalesce(v.captured, 0) AS told_captured,
            coalesce(v.released, 0) AS told_released,
            coalesce(v.placed, 0) <> 1
                OR coalesce(v.captured, 0) <> coalesce(p.captured, 0)
                OR coalesce(v.released, 0) <> coalesce(p.released, 0)
                OR coalesce(v.captures, 0) <> coalesce(c.captures, 0)
                OR v.captures <> v.capture_events OR v.has_other_end
                OR coalesce(v.ends, 0)
                    <> CASE WHEN h.status IN ('voided', 'expired') THEN 1 ELSE 0 END
                AS is_told_otherwise
        FROM (
            SELECT h.id, h.status, h.posting_count, h.expires_at, h.ended_at,
                h.created_at
            FROM ledger_hold h WHERE {holds_in_slice}
        ) AS h
        FULL JOIN (
            SELECT p.hold_id, count(*) AS row_count,
                count(DISTINCT p.number) AS number_count,
                min(p.number) AS first_number, max(p.number) AS last_number,
                bool_or(p.from_account_id = p.to_account_id
                    OR f.currency IS DISTINCT FROM p.currency
                    OR t.currency IS DISTINCT FROM p.currency) AS is_misplaced,
                sum(p.amount) AS amount, sum(p.captured) AS captured,
                sum(p.released) AS released,
                sum(p.amount - least(p.captured, p.amount) - p.released) AS held,
                min(p.created_at) AS first_created_at,
                max(p.created_at) AS last_created_at,
                min(p.expires_at) AS first_expires_at,
                max(p.expires_at) AS last_expires_at
            FROM ledger_hold_posting p
            LEFT JOIN LATERAL (
                SELECT a.currency FROM ledger_account a
                WHERE a.ledger_id = p.ledger_id AND a.id = p.from_account_id
                OFFSET 0) AS f ON true
            LEFT JOIN LATERAL (
                SELECT a.currency FROM ledger_account a
                WHERE a.ledger_id = p.ledger_id AND a.id = p.to_account_id
                OFFSET 0) AS t ON true
            WHERE {hold_postings_in_slice}
            GROUP BY p.hold_id ORDER BY p.hold_id
        ) AS p ON p.hold_id = h.id
        FULL JOIN (
            SELECT v.hold_id, count(*) FILTER (WHERE v.kind = 'placed') AS placed,
                count(*) FILTER (WHERE v.kind = 'captured') AS capture_events,
                count(DISTINCT t.id) AS captures,
                count(*) FILTER (WHERE v.kind IN ('voided', 'expired')) AS ends,
                bool_or(v.kind IN ('voided', 'expired') AND v.kind <> h.status)
                    AS has_other_end,
                sum(v.captured) AS captured, sum(v.released) AS released
            FROM ledger_hold_event v
            LEFT JOIN LATERAL (
                SELECT h.status FROM ledger_hold h
                WHERE h.ledger_id = v.ledger_id AND h.id = v.hold_id OFFSET 0
                ) AS h ON true
            LEFT JOIN LATERAL (
                SELECT t.id FROM ledger_transfer t
                WHERE t.ledger_id = v.ledger_id AND t.id = v.transfer_id
                  AND t.hold_id = v.hold_id OFFSET 0) AS t ON true
            WHERE {hold_events_in_slice}
            GROUP BY v.hold_id ORDER BY v.hold_id
        ) AS v ON v.hold_id = h.id
        LEFT JOIN (
            SELECT t.hold_id, count(*) AS captures FROM ledger_transfer t
            WHERE {captures_in_slice} AND t.hold_id IS NOT NULL
            GROUP BY t.hold_id ORDER BY t.hold_id
        ) AS c ON c.hold_id = h.id
    """,
    is_broken="""
        id IS NULL OR is_unlike_postings OR has_other_status OR expires_apart
        OR is_told_otherwise OR (status = 'expired' AND ended_at < expires_at)
    """,
    findings="""
        ('hold_comes_with_its_postings',
            CASE WHEN id IS NULL THEN posting_hold_id IS NOT NULL
                ELSE is_unlike_postings END,
            jsonb_build_object('hold_id', coalesce(id, named_id)),
            CASE WHEN id IS NULL THEN 'a hold'
                ELSE 'its postings, between accounts of their currency: '
                    || posting_count END,
            CASE WHEN id IS NULL THEN 'postings only' ELSE 'others' END, amount),
        ('hold_is_active_while_it_holds', has_other_status,
            jsonb_build_object('hold_id', id),
            CASE WHEN held > 0 THEN 'active' ELSE 'ended' END,
            concat_ws(' ', status, 'holding', held, 'captured', captured), held),
        ('hold_expires_when_it_has_lapsed',
            status = 'expired' AND ended_at < expires_at,
            jsonb_build_object('hold_id', id),
            concat_ws(' ', 'not before', expires_at), ended_at::text, 1),
        ('hold_postings_expire_together', expires_apart,
            jsonb_build_object('hold_id', id), expires_at::text, 'another time', 1),
        ('hold_events_tell_its_history',
            CASE WHEN id IS NULL THEN posting_hold_id IS NULL
                ELSE is_told_otherwise END,
            jsonb_build_object('hold_id', coalesce(id, named_id)),
            CASE WHEN id IS NULL THEN 'a hold' ELSE
                concat_ws(' ', 'placed 1 captured', captured, 'released', released,
                    'by its captures and its end') END,
            concat_ws(' ', 'placed', placed, 'captured', told_captured,
                'released', told_released),
            abs(told_captured - coalesce(captured, 0))
                + abs(told_released - coalesce(released, 0)))
    """,
)

HOLD_POSTINGS = Sweep(
    checks=(
        "hold_captured_and_released_within_held",
        "hold_captured_equals_captures",
    ),
    source="""
        SELECT p.hold_id, p.number, p.amount, p.capture_limit, p.captured, p.released,
            coalesce(c.captured, 0) AS taken,
            p.amount <= 0 OR p.capture_limit < p.amount OR p.captured < 0
                OR p.captured > p.capture_limit OR p.released < 0
                OR least(p.captured, p.amount)::numeric + p.released > p.amount
                AS is_beyond
        FROM (
            SELECT p.* FROM ledger_hold_posting p WHERE {hold_postings_in_slice}
            ORDER BY p.hold_id
        ) AS p
        LEFT JOIN (
            SELECT t.hold_id, t.source_postings[e.posting_number] AS number,
                sum(e.amount) AS captured
            FROM (
                SELECT t.ledger_id, t.id, t.hold_id, t.source_postings
                FROM ledger_transfer t
                WHERE {captures_in_slice} AND t.hold_id IS NOT NULL
                ORDER BY t.hold_id
            ) AS t
            CROSS JOIN LATERAL (
                SELECT e.amount, e.posting_number FROM ledger_entry e
                WHERE e.ledger_id = t.ledger_id AND e.transfer_id = t.id
                  AND e.direction = 'debit' OFFSET 0) AS e
            GROUP BY t.hold_id, t.source_postings[e.posting_number]
        ) AS c ON c.hold_id = p.hold_id AND c.number = p.number
    """,
    is_broken="is_beyond OR captured <> taken",
    findings="""
        ('hold_captured_and_released_within_held', is_beyond,
            jsonb_build_object('hold_id', hold_id, 'posting_number', number),
            concat_ws(' ', 'of', amount, 'captured up to', capture_limit),
            concat_ws(' ', 'captured', captured, 'released', released),
            least(captured, amount)::numeric + released - amount),
        ('hold_captured_equals_captures', captured <> taken,
            jsonb_build_object('hold_id', hold_id, 'posting_number', number),
            taken::text, captured::text, captured - taken)
    """,
)

CAPTURES = Sweep(
    checks=("capture_moves_what_is_held", "capture_before_expiry"),
    source="""
        SELECT t.id, t.hold_id, t.created_at, p.expires_at, h.ended_at, d.amount,
            d.posting_number, h.id IS NULL OR p.number IS NULL
                OR d.account_id <> p.from_account_id
                OR c.account_id <> p.to_account_id AS is_elsewhere
        FROM ledger_transfer t
        LEFT JOIN LATERAL (
            SELECT e.account_id, e.amount, e.currency, e.posting_number
            FROM ledger_entry e
            WHERE e.ledger_id = t.ledger_id AND e.transfer_id = t.id
              AND e.direction = 'debit' OFFSET 0) AS d ON true
        LEFT JOIN LATERAL (
            SELECT e.account_id FROM ledger_entry e
            WHERE e.ledger_id = t.ledger_id AND e.transfer_id = t.id
              AND e.posting_number = d.posting_number AND e.direction = 'credit'
            OFFSET 0) AS c ON true
        LEFT JOIN LATERAL (
            SELECT h.id, h.ended_at FROM ledger_hold h
            WHERE h.ledger_id = t.ledger_id AND h.id = t.hold_id OFFSET 0) AS h ON true
        LEFT JOIN LATERAL (
            SELECT p.number, p.from_account_id, p.to_account_id, p.expires_at
            FROM ledger_hold_posting p
            WHERE p.ledger_id = t.ledger_id AND p.hold_id = t.hold_id
              AND p.number = t.source_postings[d.posting_number] OFFSET 0
            ) AS p ON true
        WHERE {captures_in_slice} AND t.hold_id IS NOT NULL
        ORDER BY t.hold_id
    """,
    is_broken="""
        is_elsewhere OR created_at >= expires_at OR created_at > ended_at
    """,
    findings="""
        ('capture_moves_what_is_held', is_elsewhere,
            jsonb_build_object('transfer_id', id, 'hold_id', hold_id,
                'posting_number', posting_number),
            'between the accounts of a posting of its hold', 'elsewhere',
            amount::numeric),
        ('capture_before_expiry', created_at >= expires_at OR created_at > ended_at,
            jsonb_build_object('transfer_id', id, 'hold_id', hold_id,
                'posting_number', posting_number),
            concat_ws(' ', 'before', least(expires_at, ended_at)), created_at::text,
            amount::numeric)
    """,
)

HOLD_EVENTS = Sweep(
    checks=("hold_event_has_its_task",),
    source="""
        SELECT v.id, v.hold_id, 'hold.' || v.kind AS kind, k.kind AS task_kind,
            k.kind IS DISTINCT FROM 'hold.' || v.kind OR k.tasks <> 1 AS lacks_task
        FROM ledger_hold_event v
        CROSS JOIN LATERAL (
            SELECT min(k.kind) AS kind, count(*) AS tasks FROM outbox_task k
            WHERE k.ledger_id = v.ledger_id AND k.hold_event_id = v.id OFFSET 0
            ) AS k
        WHERE {hold_events_in_slice}
        ORDER BY v.hold_id
    """,
    is_broken="lacks_task",
    findings="""
        ('hold_event_has_its_task', lacks_task,
            jsonb_build_object('hold_event_id', id, 'hold_id', hold_id),
            '1 task ' || kind, CASE WHEN task_kind IS NULL THEN 'none'
                ELSE 'another, or several' END, 1)
    """,
)

LAST_ORIGINAL = """
SELECT greatest(
    (SELECT reverses_transfer_id FROM ledger_transfer
        WHERE ledger_id = %(ledger_id)s AND reverses_transfer_id IS NOT NULL
        ORDER BY ledger_id DESC, reverses_transfer_id DESC LIMIT 1),
    (SELECT transfer_id FROM ledger_reversal_total WHERE ledger_id = %(ledger_id)s
        ORDER BY ledger_id DESC, transfer_id DESC LIMIT 1))
"""

ORIGINAL_SLICE_END = """
SELECT least(
    (SELECT t.reverses_transfer_id FROM ledger_transfer t
        WHERE {reversals_in_slice} AND t.reverses_transfer_id IS NOT NULL
        ORDER BY t.ledger_id, t.reverses_transfer_id OFFSET %(offset)s LIMIT 1),
    (SELECT r.transfer_id FROM ledger_reversal_total r WHERE {reversal_totals_in_slice}
        ORDER BY r.ledger_id, r.transfer_id OFFSET %(offset)s LIMIT 1))
"""

# Where the transfer that is reversed is missing, transfer_reverses_existing says so.
REVERSALS = Sweep(
    checks=(
        "reversal_is_not_reversed",
        "reversal_moves_back_what_was_moved",
        "payout_is_reversed_by_payout_reversal",
    ),
    source="""
        SELECT t.id, t.kind, t.reverses_transfer_id, d.posting_number, d.amount,
            s.kind AS reversed_kind,
            s.kind IN ('reversal', 'payout_reversal', 'settlement')
                AS undoes_an_undoing,
            o.account_id IS NULL OR o.account_id IS DISTINCT FROM c.account_id
                OR (i.account_id IS DISTINCT FROM d.account_id
                    AND (t.permission IS DISTINCT FROM 'force_reversal'
                        OR a.reference IS DISTINCT FROM
                            'system:receivables:' || d.currency)) AS is_elsewhere,
            (t.kind = 'payout_reversal') <> (k.id IS NOT NULL) AS is_of_other_kind
        FROM ledger_transfer t
        CROSS JOIN LATERAL (
            SELECT s.id, s.kind FROM ledger_transfer s
            WHERE s.ledger_id = t.ledger_id AND s.id = t.reverses_transfer_id OFFSET 0
            ) AS s
        LEFT JOIN LATERAL (
            SELECT e.account_id, e.amount, e.currency, e.posting_number
            FROM ledger_entry e
            WHERE e.ledger_id = t.ledger_id AND e.transfer_id = t.id
              AND e.direction = 'debit' OFFSET 0) AS d ON true
        LEFT JOIN LATERAL (
            SELECT e.account_id FROM ledger_entry e
            WHERE e.ledger_id = t.ledger_id AND e.transfer_id = t.id
              AND e.posting_number = d.posting_number AND e.direction = 'credit'
            OFFSET 0) AS c ON true
        LEFT JOIN LATERAL (
            SELECT e.account_id, e.posting_number FROM ledger_entry e
            WHERE e.ledger_id = t.ledger_id AND e.transfer_id = s.id
              AND e.posting_number = t.source_postings[d.posting_number]
              AND e.direction = 'debit' OFFSET 0) AS o ON true
        LEFT JOIN LATERAL (
            SELECT e.account_id FROM ledger_entry e
            WHERE e.ledger_id = t.ledger_id AND e.transfer_id = s.id
              AND e.posting_number = o.posting_number AND e.direction = 'credit'
            OFFSET 0) AS i ON true
        LEFT JOIN LATERAL (
            SELECT a.reference FROM ledger_account a
            WHERE a.ledger_id = t.ledger_id AND a.id = d.account_id OFFSET 0
            ) AS a ON true
        LEFT JOIN LATERAL (
            SELECT k.id FROM outbox_task k
            WHERE k.ledger_id = t.ledger_id AND k.transfer_id = s.id
              AND k.kind = 'payout' AND k.posting_number = o.posting_number OFFSET 0
            ) AS k ON true
        WHERE {reversals_in_slice} AND t.reverses_transfer_id IS NOT NULL
        ORDER BY t.reverses_transfer_id
    """,
    is_broken="undoes_an_undoing OR is_elsewhere OR is_of_other_kind",
    findings="""
        ('reversal_is_not_reversed', undoes_an_undoing,
            jsonb_build_object('transfer_id', id, 'posting_number', posting_number,
                'reverses_transfer_id', reverses_transfer_id),
            'a transfer that undoes nothing', reversed_kind, amount::numeric),
        ('reversal_moves_back_what_was_moved', is_elsewhere,
            jsonb_build_object('transfer_id', id, 'posting_number', posting_number,
                'reverses_transfer_id', reverses_transfer_id),
            'back to where it came from', 'elsewhere', amount::numeric),
        ('payout_is_reversed_by_payout_reversal', is_of_other_kind,
            jsonb_build_object('transfer_id', id, 'posting_number', posting_number,
                'reverses_transfer_id', reverses_transfer_id),
            CASE kind WHEN 'payout_reversal' THEN 'of a payout'
                ELSE 'of no payout' END, 'a ' || kind, amount::numeric)
    """,
)

REVERSAL_TOTALS = Sweep(
    checks=("reversal_total_equals_reversals", "exchange_is_reversed_whole"),
    source="""
        SELECT coalesce(r.transfer_id, b.transfer_id) AS transfer_id,
            coalesce(r.posting_number, b.number) AS posting_number, r.reversed,
            b.reversed AS moved_back, r.amount, o.amount AS posting_amount,
            s.kind = 'exchange' AND (r.reversed <> r.amount
                OR count(*) OVER (PARTITION BY r.transfer_id) <> 2) AS is_half
        FROM (
            SELECT r.ledger_id, r.transfer_id, r.posting_number, r.reversed, r.amount
            FROM ledger_reversal_total r WHERE {reversal_totals_in_slice}
            ORDER BY r.transfer_id
        ) AS r
        FULL JOIN (
            SELECT t.reverses_transfer_id AS transfer_id,
                t.source_postings[e.posting_number] AS number,
                sum(e.amount) AS reversed
            FROM (
                SELECT t.ledger_id, t.id, t.reverses_transfer_id, t.source_postings
                FROM ledger_transfer t
                WHERE {reversals_in_slice} AND t.reverses_transfer_id IS NOT NULL
                ORDER BY t.reverses_transfer_id
            ) AS t
            CROSS JOIN LATERAL (
                SELECT e.amount, e.posting_number FROM ledger_entry e
                WHERE e.ledger_id = t.ledger_id AND e.transfer_id = t.id
                  AND e.direction = 'credit' OFFSET 0) AS e
            GROUP BY t.reverses_transfer_id, t.source_postings[e.posting_number]
        ) AS b ON b.transfer_id = r.transfer_id AND b.number = r.posting_number
        LEFT JOIN LATERAL (
            SELECT s.kind FROM ledger_transfer s
            WHERE s.ledger_id = r.ledger_id AND s.id = r.transfer_id OFFSET 0
            ) AS s ON true
        LEFT JOIN LATERAL (
            SELECT e.amount FROM ledger_entry e
            WHERE e.ledger_id = r.ledger_id AND e.transfer_id = r.transfer_id
              AND e.posting_number = r.posting_number AND e.direction = 'debit'
            OFFSET 0) AS o ON true
    """,
    is_broken="""
        is_half OR reversed IS DISTINCT FROM moved_back OR reversed > amount
        OR amount IS DISTINCT FROM posting_amount
    """,
    findings="""
        ('reversal_total_equals_reversals',
            reversed IS DISTINCT FROM moved_back OR reversed > amount
                OR amount IS DISTINCT FROM posting_amount,
            jsonb_build_object('transfer_id', transfer_id,
                'posting_number', posting_number),
            concat_ws(' ', coalesce(moved_back, 0), 'of',
                coalesce(posting_amount::text, 'no posting')),
            concat_ws(' ', coalesce(reversed, 0), 'of',
                coalesce(amount::text, 'no total')),
            coalesce(nullif(coalesce(reversed, 0) - coalesce(moved_back, 0), 0),
                reversed::numeric - amount)),
        ('exchange_is_reversed_whole', is_half,
            jsonb_build_object('transfer_id', transfer_id,
                'posting_number', posting_number),
            amount::text, reversed::text, amount::numeric - reversed)
    """,
)
