"""Django REST framework as it comes, and nothing else."""

SECRET_KEY = "signs-nothing"  # noqa: S105
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "benchmarks.constant.urls"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "rest_framework",
]
MIDDLEWARE: list[str] = []
USE_TZ = True
