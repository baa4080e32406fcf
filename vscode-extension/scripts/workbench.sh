#!/usr/bin/env bash
# A real workbench for the tests, in .e2e/: code-server from npm, and the system's Chromium. A second run ends at once.
# Wants Node 24 first in PATH (the `test` extra of the Python package brings it).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=4.139.1
folder=.e2e/code-server
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests in a real workbench need Chromium: install the package 'chromium' and run them again." >&2
    exit 3
  fi
  echo "installing chromium"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
fi
if [ ! -f "$folder/complete-$version" ]; then
  echo "installing code-server $version"
  rm -rf "$folder"
  mkdir -p "$folder"
  echo '{"private":true}' >"$folder/package.json"
  # No install scripts: they compile modules that these tests do not need.
  quiet=(--ignore-scripts --no-audit --no-fund --loglevel=error)
  vscode=$folder/node_modules/code-server/lib/vscode
  (cd "$folder" && npm install "code-server@$version" "${quiet[@]}")
  (cd "$vscode" && npm install --omit=dev "${quiet[@]}")
  (cd "$vscode/extensions" && npm install --omit=dev "${quiet[@]}")
  ln -sf code-linux.sh "$vscode/bin/remote-cli/code-server"
  ln -sf browser-linux.sh "$vscode/bin/helpers/browser.sh"
  touch "$folder/complete-$version"
fi
