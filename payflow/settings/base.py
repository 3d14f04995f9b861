"""Settings that every environment shares.

Each value that an operator may change comes from the environment; the table in
``docs/operations.md`` lists them all. ``local``, ``test`` and ``production`` add to
this module and never the other way round.
"""

from pathlib import Path

from environs import Env

from payflow.databases import database_from_url
from payflow.logging import build_logging

env = Env()

BASE_DIR = Path(__file__).resolve().parent.parent.parent

# --- Security -----------------------------------------------------------------
DEBUG = False
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", ["localhost", "127.0.0.1"])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", [])
CSRF_FAILURE_VIEW = "payflow.api.exception_handler.csrf_failure"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"

# --- Applications -------------------------------------------------------------
INSTALLED_APPS = [
    "payflow",
    "ledger",
    "outbox",
    "idempotency",
    "payflow.admin_site.PayFlowAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
]

# The API's requests go as far as ApiViewMiddleware, which calls their views: behind the
# key and its idempotency, and with the headers that every answer has. The rest is for
# the admin.
MIDDLEWARE = [
    "payflow.middleware.RequestContextMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "ledger.api.authentication.ApiKeyMiddleware",
    "payflow.middleware.LargeBodyMiddleware",
    "idempotency.middleware.IdempotencyMiddleware",
    "payflow.middleware.ApiViewMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

ROOT_URLCONF = "payflow.urls"
WSGI_APPLICATION = "payflow.wsgi.application"
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

# --- Databases ----------------------------------------------------------------
# "default" is the application's role; "owner", where DATABASE_OWNER_URL is given, is
# the role that owns the tables and runs migrations.
DATABASE_PERSISTENT_SECONDS = env.int("DATABASE_PERSISTENT_SECONDS", 300)
DATABASES = {
    "default": database_from_url(
        env.str("DATABASE_URL", "postgresql://payflow@127.0.0.1:5432/payflow"),
        conn_max_age=DATABASE_PERSISTENT_SECONDS,
        pool_size=env.int("DATABASE_POOL_SIZE", 0),
        statement_timeout_ms=env.int("DATABASE_STATEMENT_TIMEOUT_MS", 15_000),
        lock_timeout_ms=env.int("DATABASE_LOCK_TIMEOUT_MS", 2_000),
    )
}
if env.str("DATABASE_OWNER_URL", ""):
    DATABASES["owner"] = database_from_url(
        env.str("DATABASE_OWNER_URL"),
        statement_timeout_ms=0,
        lock_timeout_ms=env.int("DATABASE_LOCK_TIMEOUT_MS", 2_000),
    )
    DATABASES["owner"]["TEST"] = {"MIRROR": "default"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Valkey / Redis -----------------------------------------------------------
REDIS_URL = env.str("REDIS_URL", "redis://127.0.0.1:6379/0")
VALKEY_TIMEOUT_SECONDS = env.float("VALKEY_TIMEOUT_SECONDS", 0.1)
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "payflow",
        "OPTIONS": {
            "SOCKET_CONNECT_TIMEOUT": VALKEY_TIMEOUT_SECONDS,
            "SOCKET_TIMEOUT": VALKEY_TIMEOUT_SECONDS,
            # redis-py retries ten times by default: seconds of waiting on a dead
            # server, where PostgreSQL would have answered at once.
            "CONNECTION_POOL_KWARGS": {"retry": None},
        },
    }
}

# --- Celery -------------------------------------------------------------------
CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", REDIS_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_SOFT_TIME_LIMIT = 40
CELERY_TASK_TIME_LIMIT = 50
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 3600,
    "socket_timeout": 10,
    "socket_connect_timeout": 2,
    "health_check_interval": 30,
}
CELERY_DB_REUSE_MAX = 1000
CELERY_TIMEZONE = "UTC"
# A bank that does not answer holds up its own queue and no other.
CELERY_TASK_ROUTES = {"outbox.drain": {"queue": "outbox"}}
CELERY_BEAT_SCHEDULER = "payflow.beat:Scheduler"
# A message that nobody took before the next one is due has nothing left to say.
CELERY_BEAT_SCHEDULE = {
    "drain-outbox": {
        "task": "outbox.drain",
        "schedule": 1.0,
        "options": {"expires": 1.0},
    },
    "refresh-integrity": {
        "task": "ledger.refresh_integrity",
        "schedule": 5.0,
        "options": {"expires": 5.0},
    },
    "post-scheduled": {
        "task": "ledger.post_scheduled",
        "schedule": 5.0,
        "options": {"expires": 5.0},
    },
    "expire-holds": {
        "task": "ledger.expire_holds",
        "schedule": 5.0,
        "options": {"expires": 5.0},
    },
    "purge-responses": {
        "task": "idempotency.purge_responses",
        "schedule": 3600.0,
        "options": {"expires": 3600.0},
    },
}

# --- API ----------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "ledger.api.authentication.ClientAuthentication"
    ],
    "DEFAULT_PERMISSION_CLASSES": ["ledger.api.authentication.IsApiClient"],
    "DEFAULT_PARSER_CLASSES": ["payflow.api.parsing.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["payflow.api.rendering.JSONRenderer"],
    "EXCEPTION_HANDLER": "payflow.api.exception_handler.problem_exception_handler",
    "UNAUTHENTICATED_USER": None,
    "UNAUTHENTICATED_TOKEN": None,
    "DEFAULT_SCHEMA_CLASS": None,
    # Else ?format= would choose a renderer, and answer 404 if there is none.
    "URL_FORMAT_OVERRIDE": None,
}
DATA_UPLOAD_MAX_MEMORY_SIZE = env.int("REQUEST_MAX_BYTES", 1_048_576)
BATCH_MAX_BYTES = env.int("BATCH_MAX_BYTES", 16_777_216)
LARGE_BODIES_AT_ONCE = env.int("WEB_BATCHES", 4)

# How long a web process believes what PostgreSQL said of a valid API key; 0 asks each
# time. A revoked key works for up to this long.
API_KEY_CACHE_SECONDS = env.float("API_KEY_CACHE_SECONDS", 1.0)

# Answers API calls without a key, as the demo ledger's client. Only for a stack that
# listens on loopback; production settings refuse it.
DEMO_ACCESS_WITHOUT_KEY = env.bool("DEMO_ACCESS_WITHOUT_KEY", False)

# What each web worker does before its first request.
STARTUP_HOOKS = ["ledger.services.integrity.integrity_refresh_if_stale"]

# --- Idempotency --------------------------------------------------------------
IDEMPOTENCY_REPLAY_CACHE_SECONDS = env.int("IDEMPOTENCY_REPLAY_CACHE_SECONDS", 86_400)
IDEMPOTENCY_RESPONSE_RETENTION_DAYS = env.int("IDEMPOTENCY_RESPONSE_RETENTION_DAYS", 30)

# How the resource of a purged response is built again, by resource type.
IDEMPOTENCY_REBUILDERS = {
    "transfer": "ledger.api.transfers.transfer_rebuild",
    "account": "ledger.api.accounts.account_rebuild",
    "limits": "ledger.api.limits.limits_rebuild",
    "asset": "ledger.api.assets.asset_rebuild",
    "hold": "ledger.api.holds.hold_rebuild",
    "scheduled_transfer": "ledger.api.scheduled.scheduled_rebuild",
}

# --- Outbox -------------------------------------------------------------------
# What happens to a task of each kind is the business of the app that enqueued it.
OUTBOX_HANDLERS = {
    "payout": "ledger.services.payouts.PayoutHandler",
    "transfer.posted": "outbox.handlers.NoEndpointHandler",
    "hold.placed": "outbox.handlers.NoEndpointHandler",
    "hold.extended": "outbox.handlers.NoEndpointHandler",
    "hold.captured": "outbox.handlers.NoEndpointHandler",
    "hold.voided": "outbox.handlers.NoEndpointHandler",
    "hold.expired": "outbox.handlers.NoEndpointHandler",
}
OUTBOX_PAYOUT_PROVIDER = env.str(
    "PAYOUT_PROVIDER", "outbox.providers.http.HttpPayoutProvider"
)
# After a send of unknown outcome, the bank's "not found" is believed only once this
# much time has passed: the request may still be on its way through the bank.
PAYOUT_SETTLE_DELAY_SECONDS = env.float("PAYOUT_SETTLE_DELAY_SECONDS", 60.0)
PAYOUT_PROVIDER_URL = env.str("PAYOUT_PROVIDER_URL", "http://127.0.0.1:8090")

# --- Metrics ------------------------------------------------------------------
# /metrics is for callers on this host or, where there is a token, for who brings it.
METRICS_ENABLED = env.bool("METRICS_ENABLED", True)
METRICS_TOKEN = env.str("METRICS_TOKEN", "")
METRICS_READERS = [
    "ledger.metrics.integrity_readings",
    "outbox.metrics.outbox_readings",
]

# --- Internationalisation -----------------------------------------------------
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

# --- Static files -------------------------------------------------------------
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"

# --- Logging ------------------------------------------------------------------
LOG_FORMAT = env.str("LOG_FORMAT", "auto")
LOG_LEVEL = env.str("LOG_LEVEL", "INFO")
LOGGING_CONFIG = None
build_logging(log_format=LOG_FORMAT, level=LOG_LEVEL)

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
