# Shared by ./run, ./test and .ci/run, which source it: installs Debian packages and builds the program.

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$0: $*"
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "needs root to run: $*"
    fi
}

# missing_packages LIST...: the packages of these lists that are not installed, on one line. Of a line
# "a | b" either will do, and the first is what is missing.
missing_packages() {
    local name choice installed
    # shellcheck disable=SC2016
    installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' | sed -n 's/ installed$//p')
    sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$@" | while IFS='|' read -ra choice; do
        for name in "${choice[@]}"; do
            grep -qxF "$name" <<<"$installed" && continue 2
        done
        printf '%s ' "${choice[0]}"
    done
}

# install_packages LIST...: does nothing, in milliseconds, when nothing is missing. Services that the
# packages bring along are not started: a policy-rc.d says no while they are installed, unless the
# machine has a policy of its own.
install_packages() {
    local missing
    command -v dpkg-query >/dev/null ||
        die "expected Debian 12, found no dpkg; install what $* names and see CONTRIBUTING.md"
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        die "missing packages, and neither root nor sudo to install them. As root: apt-get install $missing"
    fi
    say "Installing: $missing"
    # shellcheck disable=SC2086,SC2016
    as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 bash -c '
        set -e
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap "rm -f $policy" EXIT
            printf "#!/bin/sh\nexit 101\n" >"$policy"
            chmod 755 "$policy"
        fi
        apt="apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300"
        # The package lists may be missing or old; they are fetched once if so.
        $apt install --no-install-recommends "$@" || {
            $apt update
            $apt install --no-install-recommends "$@"
        }
        # Debian switches these on for every PHP of the machine, and they slow all of it.
        for package; do
            case $package in php*-xdebug | php*-pcov | php*-excimer) phpdismod "${package##*-}" ;; esac
        done' install_packages $missing >&2 ||
        die "apt-get could not install: $missing"
}

# build_program [FOLDER [MESON OPTION...]]: configures once, then builds what changed. The default folder
# is build/: optimised, with debug information, CHECKs but no DCHECKs.
build_program() {
    local folder=${1:-build}
    [ $# = 0 ] || shift
    if [ ! -f "$folder/build.ninja" ]; then
        say "Building in $folder; the first time takes a minute or two"
        [ $# != 0 ] || set -- -Db_ndebug=true
        meson setup "$folder" "$@" >"$folder.log" 2>&1 || {
            cat "$folder.log" >&2
            die "meson could not configure $folder"
        }
        rm -f "$folder.log"
    fi
    ninja -C "$folder" >"$folder/ninja.log" 2>&1 || {
        grep -v '^\[[0-9/]*\] [A-Z][a-z]*ing ' "$folder/ninja.log" >&2
        die "the build failed; the whole output is in $folder/ninja.log"
    }
}
