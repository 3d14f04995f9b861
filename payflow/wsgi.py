"""The WSGI application that gunicorn serves."""

import os

from django.core.wsgi import get_wsgi_application

# A deployment that names no settings gets those that refuse to start half-configured.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "payflow.settings.production")

application = get_wsgi_application()
