"""Settings of the test suite; servers come from the pytest plugin's environment."""

from payflow.settings.base import *  # noqa: F403

SECRET_KEY = "tests-only"  # noqa: S105
ALLOWED_HOSTS = ["*"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
WHITENOISE_USE_FINDERS = True
STATIC_ROOT = None
