"""Rules of the code base that a reader should be able to rely on, run as tests."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
APPS = ("payflow", "ledger", "outbox", "idempotency")
#: Modules of the kernel that put the apps together, and so may import them.
COMPOSITION = ("payflow/urls.py", "payflow/celery.py", "payflow/settings/")


def sources(app: str, *, tests: bool = False) -> list[Path]:
    return [
        path
        for path in sorted((ROOT / app).rglob("*.py"))
        if tests or "tests" not in path.parts
    ]


def imported_apps(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found & set(APPS)


@pytest.mark.parametrize(
    ("app", "forbidden"),
    [
        ("outbox", {"ledger", "idempotency"}),
        ("idempotency", {"ledger", "outbox"}),
        ("payflow", {"ledger", "outbox", "idempotency"}),
    ],
)
def test_that_apps_import_only_what_they_may(app, forbidden):
    wrong = {
        str(path.relative_to(ROOT)): imported_apps(path) & forbidden
        for path in sources(app)
        if imported_apps(path) & forbidden
        and not str(path.relative_to(ROOT)).startswith(COMPOSITION)
    }

    assert wrong == {}


def test_that_only_the_kernel_knows_http_statuses():
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for app in ("ledger", "outbox", "idempotency")
        for path in sources(app)
        if "services" in path.parts or path.name in {"locks.py", "types.py", "audit.py"}
        for line in path.read_text().splitlines()
        if re.search(r"\bimport\b.*\b(rest_framework|django\.http)\b", line)
    ]

    assert wrong == []


def test_that_only_the_lock_module_locks_accounts():
    wrong = [
        str(path.relative_to(ROOT))
        for path in sources("ledger")
        if path.name != "locks.py"
        and re.search(r"Account\.objects[^#]*select_for_update", path.read_text())
    ]

    assert wrong == []


def test_that_only_the_engine_writes_the_books():
    statement = re.compile(
        r"INSERT INTO ledger_(transfer|entry|hold\w*|reversal_total)\b|"
        r"UPDATE ledger_(account|hold\w*|reversal_total)\b|"
        r"\b(Transfer|Entry)\.objects\.(bulk_)?create"
    )
    wrong = [
        str(path.relative_to(ROOT))
        for app in APPS
        for path in sources(app)
        if statement.search(path.read_text())
    ]

    assert wrong == ["ledger/engine/writing.py"]


#: Words that the glossary replaces, in the names of things.
BANNED_NAMES = re.compile(
    r"\b(?:class|def)\s+\w*(?:wallet|Wallet|payment_transaction|Leg)\b"
)
#: Test helpers that flush tables, which append-only ones refuse.
BANNED_IN_TESTS = ("transactional" + "_db", "Transaction" + "TestCase")


def test_that_nobody_uses_a_banned_name():
    wrong = [
        f"{path.relative_to(ROOT)}: {match.group(0)}"
        for app in APPS
        for path in sources(app, tests=True)
        for match in BANNED_NAMES.finditer(path.read_text())
    ] + [
        f"{path.relative_to(ROOT)}: {word}"
        for app in APPS
        for path in sources(app, tests=True)
        for word in BANNED_IN_TESTS
        if word in path.read_text()
    ]

    assert wrong == []


def test_that_every_problem_code_that_is_used_is_registered():
    from payflow.api.problems import PROBLEMS

    used: set[str] = set()
    for app in APPS:
        for path in sources(app):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in {"Problem", "ProblemError"}
                    and node.args
                    and isinstance(node.args[0], ast.Constant)
                ):
                    used.add(node.args[0].value)

    assert used <= set(PROBLEMS)
    assert len(used) > 15


def test_that_no_field_of_a_problem_hides_what_every_problem_has():
    from payflow.api.rendering import problem_document
    from payflow.errors import Problem

    common = set(problem_document(Problem("not_found", "")))
    wrong = [
        f"{path.relative_to(ROOT)}:{key.lineno}: {key.value}"
        for app in APPS
        for path in sources(app)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Problem"
        and len(node.args) > 2
        and isinstance(node.args[2], ast.Dict)
        for key in node.args[2].keys
        if isinstance(key, ast.Constant) and key.value in common
    ]

    assert wrong == []


def test_that_the_problems_page_of_the_docs_is_what_the_registry_says():
    from payflow.api.problems import PROBLEMS

    text = (ROOT / "docs" / "problems.md").read_text()
    for code, kind in PROBLEMS.items():
        row = (
            f"| `{code}` | {kind.status} | {kind.title} | "
            f"{'yes' if kind.retryable else 'no'} | {kind.remedy} |"
        )
        assert row in text, f"docs/problems.md lacks: {row}"


def test_that_the_problems_page_explains_every_code_of_a_wrong_field():
    used: set[str] = set()
    for app in APPS:
        for path in sources(app):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name == "fail":
                    used |= texts_of(node.args[1:2])
                elif name == "shape_errors":
                    listed = [n for n in ast.walk(node) if isinstance(n, ast.Tuple)]
                    used |= {text for row in listed for text in texts_of(row.elts[1:2])}
    table = (ROOT / "docs" / "problems.md").read_text().partition("`errors[].code`")[2]

    assert {code for code in used if f"`{code}`" not in table} == set()
    assert len(used) > 20


def texts_of(nodes: list[ast.expr]) -> set[str]:
    """The texts that stand there as such."""
    return {n.value for n in nodes if isinstance(n, ast.Constant)}
