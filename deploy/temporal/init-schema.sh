#!/bin/sh
# Creates or upgrades the two databases of the Temporal server. Safe to run
# again: every step leaves what is there already. SQL_PASSWORD is read by the tool.
set -eu

: "${POSTGRES_SEEDS:?host name of PostgreSQL}"
: "${POSTGRES_USER:?user of PostgreSQL}"
: "${SQL_PASSWORD:?password of that user}"

sql() {
  temporal-sql-tool --plugin postgres12 \
    --ep "$POSTGRES_SEEDS" -p "${DB_PORT:-5432}" -u "$POSTGRES_USER" "$@"
}

for pair in temporal:temporal temporal_visibility:visibility; do
  database=${pair%%:*}
  schema=/etc/temporal/schema/postgresql/v12/${pair##*:}/versioned
  sql --db "$database" create
  sql --db "$database" setup-schema -v 0.0
  sql --db "$database" update-schema -d "$schema"
done
