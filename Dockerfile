# One image for the web server, the workers, beat and every manage.py command.
# docker-compose.yml shows what each is started with; docs/docker.md how to use them.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm


FROM ${PYTHON_IMAGE} AS dependencies

# Only the first section of requirements.txt: no embedded servers and no test tools.
# Should the section ever lose its heading, nothing is installed and the build fails.
COPY requirements.txt /tmp/all.txt
RUN sed -n '/^# Runtime$/,/^$/p' /tmp/all.txt > /tmp/runtime.txt \
    && grep -q '^Django==' /tmp/runtime.txt

# pip stays outside of the environment: what runs needs none.
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install \
        --no-cache-dir --disable-pip-version-check --requirement /tmp/runtime.txt


FROM ${PYTHON_IMAGE} AS application

ENV PATH="/opt/venv/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DJANGO_SETTINGS_MODULE=payflow.settings.production

WORKDIR /app
COPY --from=dependencies /opt/venv /opt/venv
# .dockerignore lets through the program alone.
COPY . .

# The settings demand a configuration before they load. This one lasts as long as this
# command, reaches no server, and leaves nothing in the image.
RUN SECRET_KEY=for-the-collection-of-static-files-only \
    DATABASE_URL=postgresql://nobody@localhost/nothing \
    REDIS_URL=redis://localhost \
    ALLOWED_HOSTS=localhost \
    python manage.py collectstatic --no-input --verbosity 0 \
    && python -m compileall -q . \
    # Whatever the umask of the checkout was.
    && chmod -R u=rwX,go=rX .


FROM ${PYTHON_IMAGE}

ENV PATH="/opt/venv/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DJANGO_SETTINGS_MODULE=payflow.settings.production \
    LOG_FORMAT=json \
    WEB_BIND=0.0.0.0:8080

# Its files are root's: the program cannot change itself, and needs no place to write
# but /tmp. The bank simulator keeps its books in a volume in /var/lib/bank.
RUN groupadd --system --gid 10001 payflow \
    && useradd --system --uid 10001 --gid payflow \
        --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin payflow \
    && install --directory --owner payflow --group payflow --mode 0700 /var/lib/bank

WORKDIR /app
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=application /app /app

USER payflow
EXPOSE 8080
# gunicorn and Celery both drain on SIGTERM, which is what `docker stop` sends.
STOPSIGNAL SIGTERM
CMD ["gunicorn", "--config", "python:payflow.gunicorn_conf", "payflow.wsgi"]
