"""The stack that ``make run`` starts: loopback only, demo books, readable logs."""

from payflow.embedded.environment import load_stack_environment

# Before the base settings read it: what the running stack wrote down about itself.
load_stack_environment()

from payflow.settings.base import *  # noqa: E402, F403
from payflow.settings.base import env  # noqa: E402

SECRET_KEY = env.str("SECRET_KEY", "local-stack-only-never-used-in-production")
DEMO_ACCESS_WITHOUT_KEY = env.bool("DEMO_ACCESS_WITHOUT_KEY", True)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])

# Static files straight from the packages: there is no build step to forget.
WHITENOISE_USE_FINDERS = True
STATIC_ROOT = None
