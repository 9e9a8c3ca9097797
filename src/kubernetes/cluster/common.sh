# shellcheck shell=bash
# What the set-up scripts share.  Sourced, never run.
#
#   --dry-run   say what would be done, change nothing, need no root
#   ROOT        where files are written, for tests; empty on a real node

DRY_RUN=0
ROOT=${ROOT:-}

say() { echo "$PROGRAM: $*"; }

fail() { # MESSAGE [CODE]
  echo "$PROGRAM: $1" >&2
  exit "${2:-1}"
}

read_arguments() {
  local argument
  for argument in "$@"; do
    case $argument in
      --dry-run) DRY_RUN=1 ;;
      -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
      *) fail "unknown argument '$argument'; see $PROGRAM --help" 2 ;;
    esac
  done
}

need_root() {
  [[ $DRY_RUN == 1 || -n $ROOT || $EUID == 0 ]] || fail "must be root; use sudo, or --dry-run to look first" 2
}

# Run a command that changes something; in a dry run, say it.
run() {
  if [[ $DRY_RUN == 1 ]]; then
    echo "+ $*"
    return
  fi
  "$@"
}

# Write standard input to a file, if it says something else.  Returns 1 where nothing changed.
write_file() { # PATH
  local path=$ROOT$1 content
  content=$(cat)
  if [[ -f $path && $(cat "$path") == "$content" ]]; then
    return 1
  fi
  if [[ $DRY_RUN == 1 ]]; then
    echo "+ write $1"
    return
  fi
  mkdir -p "$(dirname "$path")"
  printf '%s\n' "$content" >"$path"
  say "wrote $1"
}

# Trust a vendor's package repository with the vendor's own key.
add_repository() { # NAME KEY_URL LINE
  local keyring=/etc/apt/keyrings/$1.gpg
  if [[ ! -f $ROOT$keyring ]]; then
    if [[ $DRY_RUN == 1 ]]; then
      echo "+ fetch $2 into $keyring"
    else
      mkdir -p "$ROOT/etc/apt/keyrings"
      curl --fail --silent --show-error --location --retry 5 "$2" | gpg --dearmor --yes -o "$ROOT$keyring"
    fi
  fi
  if echo "deb [signed-by=$keyring] $3" | write_file "/etc/apt/sources.list.d/$1.list"; then
    run apt-get update -q
  fi
}

# Whether version $1 is at least $2.
at_least() {
  [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]
}
