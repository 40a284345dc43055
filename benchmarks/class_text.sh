#!/bin/bash
# The class text's own commands, one after the other, as a student types them: PostgreSQL, an S3 store, a database, a
# bucket, `mlflow server` with its defaults, the training project, a look at what came of it. Settings come from the
# environment: DIRECTORY (new), RUNTIME (installed programs), PROJECT (training project) and the PORT_ variables.
# Prints the seconds of every step, and "verified" at the end; then stops what it started.
set -euo pipefail
set -m # every background job leads a process group, so that it can be ended with its children
mkdir "$DIRECTORY"
cd "$DIRECTORY"
export TMPDIR=$DIRECTORY
export PATH=$RUNTIME/bin:$RUNTIME/postgresql/bin:$PATH
export AWS_ACCESS_KEY_ID=classtextkey AWS_SECRET_ACCESS_KEY=classtextsecret AWS_DEFAULT_REGION=us-east-2
export AWS_ENDPOINT_URL_S3=http://127.0.0.1:$PORT_S3 MLFLOW_S3_ENDPOINT_URL=http://127.0.0.1:$PORT_S3
jobs=()

stop() {
    exec 2>/dev/null # bash tells of every job that is killed
    for job in "${jobs[@]}"; do kill -- "-$job" 2>/dev/null || true; done
    for job in "${jobs[@]}"; do
        for _ in $(seq 100); do kill -0 -- "-$job" 2>/dev/null || break; sleep 0.1; done
        kill -KILL -- "-$job" 2>/dev/null || true
    done
    if [ -f postgres/postmaster.pid ]; then pg_ctl --pgdata postgres --mode fast --wait stop >/dev/null; fi
}
trap stop EXIT

now() { echo "${EPOCHREALTIME/[.,]/}"; } # microseconds
step() { printf '%6d ms  %s\n' $((($(now) - began) / 1000)) "$1"; began=$(now); }
answers() { for _ in $(seq 1200); do if "$@" >/dev/null 2>&1; then return; fi; sleep 0.1; done; return 1; }
began=$(now)

initdb --pgdata postgres --username postgres >/dev/null
pg_ctl --pgdata postgres --log postgres.log --wait --options "-p $PORT_POSTGRES -k $DIRECTORY" start >/dev/null
export PGHOST=127.0.0.1 PGPORT=$PORT_POSTGRES
step "start PostgreSQL"

cat >s3.json <<END
{"identities": [{"name": "admin", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "$AWS_ACCESS_KEY_ID", "secretKey": "$AWS_SECRET_ACCESS_KEY"}]}]}
END
mkdir objects
weed server -ip=127.0.0.1 -dir=objects -s3 -s3.config=s3.json -s3.port="$PORT_S3" -s3.port.grpc=$((PORT_INNER + 6)) \
    -s3.port.iceberg=0 -s3.port.lance=0 -filer -filer.port=$((PORT_INNER + 4)) -filer.port.grpc=$((PORT_INNER + 5)) \
    -volume.port=$((PORT_INNER + 2)) -volume.port.grpc=$((PORT_INNER + 3)) \
    -master.port="$PORT_INNER" -master.port.grpc=$((PORT_INNER + 1)) >weed.log 2>&1 &
jobs+=($!)
answers curl --silent "http://127.0.0.1:$PORT_S3"
step "start the S3 store"

psql -qU postgres -c "CREATE DATABASE mlflow_jdoe"
psql -qU postgres -c "CREATE USER mlflow_jdoe WITH PASSWORD 'classtext'"
psql -qU postgres -c "ALTER DATABASE mlflow_jdoe OWNER TO mlflow_jdoe"
step "make database and user"

python -c "import boto3; boto3.client('s3').create_bucket(Bucket='mlflow-jdoe',
    CreateBucketConfiguration={'LocationConstraint': 'us-east-2'})"
step "make the bucket"

mlflow server --backend-store-uri "postgresql+psycopg2://mlflow_jdoe:classtext@127.0.0.1:$PORT_POSTGRES/mlflow_jdoe" \
    --default-artifact-root s3://mlflow-jdoe --host 127.0.0.1 --port "$PORT_SERVER" >mlflow.log 2>&1 &
jobs+=($!)
answers curl --silent --fail "http://127.0.0.1:$PORT_SERVER/health"
step "start the tracking server"

cp -r "$PROJECT" training
cd training
export MLFLOW_TRACKING_URI=http://127.0.0.1:$PORT_SERVER
python src/make_data.py
step "make the table"
python src/train.py
step "train"
cd ..

python - <<'END'
import json, os, urllib.request
def call(path, body=None):
    request = urllib.request.Request(os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/" + path,
        body and json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))
number = call("experiments/get-by-name?experiment_name=churn-exp")["experiment"]["experiment_id"]
run, = call("runs/search", {"experiment_ids": [number]})["runs"]
print("run:", run["info"]["run_name"], run["info"]["status"])
assert run["info"]["status"] == "FINISHED"
END
PGPASSWORD=classtext psql -U mlflow_jdoe -At mlflow_jdoe -c "select 'rows:', (select count(*) from runs),
    (select count(*) from metrics), (select count(*) from params), (select count(*) from model_versions)"
python -c "import boto3; keys = boto3.client('s3').list_objects_v2(Bucket='mlflow-jdoe')['Contents']
print('objects:', len(keys)); assert any('/models/' in key['Key'] for key in keys)"
step "look at server, tables and bucket"
echo verified
