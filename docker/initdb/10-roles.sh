#!/usr/bin/env bash
# Makes PayFlow's database and the roles that it logs in as. The postgres image runs
# this once, on an empty volume.
#
#   payflow_owner  owns the tables; migrations alone log in as it
#   payflow        the web server, the workers, the commands; owns nothing
#   payflow_app    cannot log in; migrations grant it what `payflow` may do
set -euo pipefail
: "${DATABASE_OWNER_PASSWORD:?is not set}" "${DATABASE_PASSWORD:?is not set}"

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 \
    --username "$POSTGRES_USER" --dbname postgres <<'SQL'
-- From the environment and into no log: others can read a command line.
\getenv owner_password DATABASE_OWNER_PASSWORD
\getenv password DATABASE_PASSWORD
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';

CREATE ROLE payflow_app NOLOGIN;
CREATE ROLE payflow_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE payflow LOGIN PASSWORD :'password' IN ROLE payflow_app;

CREATE DATABASE payflow OWNER payflow_owner;
REVOKE ALL ON DATABASE payflow FROM PUBLIC;
GRANT CONNECT ON DATABASE payflow TO payflow;
SQL
