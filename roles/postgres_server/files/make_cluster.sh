# Makes the cluster beside its place and moves it there when it is whole. The statements arrive on standard input and
# are run in single-user mode, so there is never a moment with a server and without a password.
#     sh -euc "$(cat make_cluster.sh)" make_cluster BIN DIRECTORY
BIN=$1 DIRECTORY=$2
umask 077
cd "$DIRECTORY"
rm -rf data.new
"$BIN/initdb" --pgdata data.new --username postgres --auth reject --encoding UTF8 --locale C.UTF-8 \
    --data-checksums >/dev/null
"$BIN/postgres" --single -D data.new postgres 2>bootstrap.log >/dev/null
if grep -e ERROR: -e FATAL: -e PANIC: bootstrap.log >&2; then exit 1; fi
rm bootstrap.log
mv data.new data
