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

# debian_php: the PHP to build and test with, "8.2": $SAPID_PHP; else the newest whose libphp is installed;
# else what this Debian's libphp-embed depends on. The lists of packages name that of Debian 12.
debian_php() {
    local found=${SAPID_PHP:-}
    # shellcheck disable=SC2016
    [ -n "$found" ] || found=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' 'libphp8.*-embed' 2>/dev/null |
        sed -n 's/^libphp\(8\.[0-9]*\)-embed installed$/\1/p' | sort -V | tail -n 1)
    [ -n "$found" ] || found=$(apt-cache depends libphp-embed 2>/dev/null | sed -n 's/.*Depends: libphp\(8\.[0-9]*\)-embed$/\1/p')
    printf '%s\n' "${found:-8.2}"
}

# not_for PHP: extended regular expression of what a list names and that PHP does not have as a package of its own.
not_for() {
    case $1 in
    8.[234]) printf '^$' ;;
    *) printf '^php8\\.[0-9]+-opcache$' ;; # opcache is a part of libphp
    esac
}

# missing_packages LIST...: the packages of these lists that are not installed, on one line. Of a line
# "a | b" either will do, and the first that apt has is what is missing.
missing_packages() {
    local name choice installed php
    php=$(debian_php)
    # shellcheck disable=SC2016
    installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' | sed -n 's/ installed$//p')
    sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' -e "s/php8\.2/php$php/g" "$@" | grep -vE "$(not_for "$php")" |
        while IFS='|' read -ra choice; do
            for name in "${choice[@]}"; do
                grep -qxF "$name" <<<"$installed" && continue 2
            done
            name=$(offered "${choice[@]}" | head -n 1)
            printf '%s ' "${name:-${choice[0]}}"
        done
}

# offered NAME...: those that apt can install, one a line.
offered() {
    apt-cache policy "$@" 2>/dev/null | awk '/^[^ ]/ { sub(":$", "", $1); name = $1 } /Candidate:/ && $2 != "(none)" { print name }'
}

# with_what_apt_has NAME...: the same, less the extensions that this Debian lacks for its newer PHP; says so.
with_what_apt_has() {
    local name known
    known=$(offered "$@")
    for name in "$@"; do
        case $name in
        php8.2-*) ;;
        php8.*-*)
            grep -qxF "$name" <<<"$known" || {
                say "apt has no $name: what needs it will fail"
                continue
            }
            ;;
        esac
        printf '%s ' "$name"
    done
}

# install_packages LIST...: does nothing, in milliseconds, when nothing is missing. Services that the
# packages bring along are not started: a policy-rc.d says no while they are installed, unless the
# machine has a policy of its own.
install_packages() {
    local missing
    command -v dpkg-query >/dev/null ||
        die "expected Debian 12 or later, found no dpkg; install what $* names and see CONTRIBUTING.md"
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        die "missing packages, and neither root nor sudo to install them. As root: apt-get install $missing"
    fi
    # Without package lists nobody knows which PHP this Debian has.
    if [ -z "$(apt-cache policy libphp-embed 2>/dev/null)" ]; then
        as_root apt-get -q -y update >&2 || true
        missing=$(missing_packages "$@")
    fi
    # shellcheck disable=SC2086
    missing=$(with_what_apt_has $missing)
    [ -n "$missing" ] || return 0
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
