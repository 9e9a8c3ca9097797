# What .ci/run brings to a machine that has nothing: `source build-support/ci/bring.sh`.
#
# Each function returns 0 when its programs are on the PATH, and otherwise says on stderr what failed.
# What is brought is kept in the cache folder, and made beside its final place and renamed at the end,
# so that a folder of the final name is always whole.
# shellcheck shell=bash

servekit_cache=${XDG_CACHE_HOME:-$HOME/.cache}/servekit

_not_brought() { # NAME WHY...
  echo "bring: $*" >&2
  return 1
}

bring_uv() {
  local home=$servekit_cache/tools partial
  command -v uv >/dev/null && return
  if [[ ! -x $home/bin/uv ]]; then
    mkdir -p "$servekit_cache"
    partial=$(mktemp -d "$servekit_cache/tools.XXXXXX")
    # --target has no paths in its scripts that a move would break; uv is a binary besides.
    if ! { python3 -m venv "$partial/venv" &&
      "$partial/venv/bin/python" -m pip install -q --disable-pip-version-check \
        --target "$partial/tools" uv; }; then
      rm -rf "$partial"
      _not_brought "uv: pip could not install it"
      return
    fi
    rm -rf "$home"
    mv "$partial/tools" "$home"
    rm -rf "$partial"
  fi
  export PATH=$home/bin:$PATH
  command -v uv >/dev/null || _not_brought "uv: $home holds none"
}

# What judges terraform, manifests, workflows and shell scripts, each with the version of its line.
bring_validators() {
  export UV_TOOL_DIR=$servekit_cache/validators UV_TOOL_BIN_DIR=$servekit_cache/validators/bin
  export PATH=$UV_TOOL_BIN_DIR:$PATH
  local tool failed=0
  while read -r tool; do
    # uv knows what is there; a version that is not the line's is replaced.
    uv tool install --quiet "$tool" || { _not_brought "$tool: uv tool install $tool failed" || failed=1; }
  done <"$(dirname "${BASH_SOURCE[0]}")/validators.txt"
  return "$failed"
}

# Debian's package, unpacked and not installed: installing it would start a server.
bring_prometheus() {
  local home=$servekit_cache/prometheus partial
  export PATH=$PATH:$home/usr/bin
  command -v promtool >/dev/null && return
  command -v apt-get >/dev/null || { _not_brought "promtool: no apt-get here"; return; }
  mkdir -p "$servekit_cache"
  partial=$(mktemp -d "$servekit_cache/prometheus.XXXXXX")
  (cd "$partial" &&
    { apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }; } &&
    dpkg-deb -x prometheus_*.deb root) >"$partial/log" 2>&1 ||
    { tail -n 3 "$partial/log" >&2; rm -rf "$partial"; _not_brought "promtool: apt-get download prometheus failed"; return; }
  rm -rf "$home"
  mv "$partial/root" "$home"
  rm -rf "$partial"
  command -v promtool >/dev/null || _not_brought "promtool: the package holds none"
}

bring_chromium() {
  command -v chromium >/dev/null && return
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    _not_brought "chromium: neither here, nor root on a Debian; apt-get install chromium"
    return
  fi
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >/dev/null 2>&1
  command -v chromium >/dev/null || _not_brought "chromium: apt-get install chromium failed"
}
