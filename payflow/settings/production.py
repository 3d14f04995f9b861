"""Production: no secret has a default, and nothing is open that must be closed."""

from django.core.exceptions import ImproperlyConfigured

from payflow.settings.base import *  # noqa: F403
from payflow.settings.base import DEMO_ACCESS_WITHOUT_KEY, METRICS_TOKEN, env

for _name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "ALLOWED_HOSTS"):
    if not env.str(_name, ""):
        raise ImproperlyConfigured(
            f"{_name} is not set. Production needs it; docs/operations.md says how."
        )
if DEMO_ACCESS_WITHOUT_KEY:
    raise ImproperlyConfigured(
        "DEMO_ACCESS_WITHOUT_KEY is on. It answers API calls without a key and is "
        "only for the local demo stack: unset it."
    )

if env.str("PAYFLOW_FAILPOINT", ""):
    raise ImproperlyConfigured("PAYFLOW_FAILPOINT is for tests only: unset it.")

SECRET_KEY = env.str("SECRET_KEY")
if len(SECRET_KEY) < 32:
    raise ImproperlyConfigured("SECRET_KEY must have at least 32 characters.")

# A proxy on the same host may look like a caller of that host.
METRICS_ENABLED = env.bool("METRICS_ENABLED", bool(METRICS_TOKEN))

SESSION_COOKIE_SECURE = env.bool("COOKIE_SECURE", True)
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE
SECURE_SSL_REDIRECT = env.bool("SSL_REDIRECT", False)
# Probes speak plain HTTP to the container itself.
SECURE_REDIRECT_EXEMPT = [r"^(livez|readyz|health|metrics)$"]
SECURE_HSTS_SECONDS = env.int("HSTS_SECONDS", 31_536_000)
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
SECURE_PROXY_SSL_HEADER = (
    ("HTTP_X_FORWARDED_PROTO", "https") if env.bool("BEHIND_TLS_PROXY", False) else None
)
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
