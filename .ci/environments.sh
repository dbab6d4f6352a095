# Environments in which .ci/test-pythons and .ci/test-mpis compile, install and test this checkout. Sourced by both, in the root of
# the checkout.
#
#   make_chroot ROOT SUITE PACKAGES    a chroot with packages of a release of Debian
#   make_environment PYTHON ROOT PLACE PACKAGES   an environment with these packages
#   install_checkout ROOT PLACE        pympipool in it, compiled for it
#   run_tests ROOT PLACE TESTS ...     pytest there; 124 as exit code: the tests have not ended in time
#
# ROOT is a chroot, or empty; PLACE is a folder, as seen by what runs in ROOT. What is there is used again: the next run only compiles
# what has changed, and tests.

tests_limit_s=${TESTS_LIMIT_S:-300} # for the tests of one environment: a slow machine is no failure
test_packages="numpy psutil xxhash tqdm pytest pytest-timeout pytest-xdist hypothesis jsonschema"
compiled=$(cat setup.py csrc/*.[ch] csrc/platform/* pympipool/*/*.py[xd] | sha256sum)

# make_chroot ROOT SUITE PACKAGES: makes a chroot, unless it is there; says why there is none.
make_chroot() {
    local root=$1 mirror log=$1.log
    [ ! -e "$root/complete" ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! grep -qx ID=debian /etc/os-release || ! command -v apt-get >/dev/null; then
        echo "a chroot with it needs root on Debian"
        return 1
    fi
    if ! command -v mmdebstrap >/dev/null; then
        { apt-get install -y -qq mmdebstrap || { apt-get update -qq && apt-get install -y -qq mmdebstrap; }; } >/dev/null 2>&1 || true
    fi
    # The mirror is that of this machine. Its index of a release may be older than its own time limit.
    mirror=$(apt-get indextargets --format '$(SITE)' | head -1)
    rm -rf "$root"
    if ! timeout "${CHROOT_LIMIT_S:-300}" mmdebstrap --aptopt='Acquire::Check-Valid-Until "false"' --variant=minbase \
        --include="gcc,g++,make,procps,util-linux,ca-certificates,$3" "$2" "$root" "$mirror" >"$log" 2>&1; then
        echo "a chroot with it could not be made: see $log"
        return 1
    fi
    touch "$root/complete"
}

# inside ROOT COMMAND ...: runs a command in a chroot with /proc, /tmp and /dev/shm of its own; in place if ROOT is empty.
inside() {
    local root=$1
    shift
    if [ -z "$root" ]; then "$@"; return; fi
    unshare --mount --pid --fork --kill-child --mount-proc bash -c '
        mount --bind "$0" "$0" && cd "$0"
        mount -t proc proc proc && mount -t sysfs sys sys && mount --rbind /dev dev && mount --make-rslave dev
        mount -t tmpfs shm dev/shm && mount -t tmpfs tmp tmp
        env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin LD_LIBRARY_PATH=/pympipool/lib chroot . "$@"
        exit $?' "$root" "$@" # bash stays, and reaps what becomes its child
}

# make_environment PYTHON ROOT PLACE PACKAGES: makes an environment with packages, unless it is there.
make_environment() {
    local python=$1 root=$2 place=$3 home=$2$3 requirements="setuptools>=77 Cython cloudpickle $4" from=() version
    [ "$(cat "$home/requirements" 2>/dev/null)" != "$requirements" ] || return 0
    rm -rf "$home"
    mkdir -p "$home/wheels"
    if [ -n "$root" ]; then # no network and no settings of pip in the chroot
        version=$(inside "$root" "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || return
        .venv/bin/python -m pip download --quiet --disable-pip-version-check --dest "$home/wheels" \
            --python-version "$version" --only-binary :all: $requirements || return
        from=(--no-index --find-links "$place/wheels")
    fi
    inside "$root" "$python" -m venv "$place/venv" || return
    inside "$root" "$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --only-binary :all: "${from[@]}" $requirements || return
    echo "$requirements" >"$home/requirements"
}

# install_checkout ROOT PLACE: compiles and installs this checkout in an environment.
install_checkout() {
    local root=$1 place=$2 home=$1$2
    # What was compiled from the same sources is kept. All files have one time, so that a fresh clone is not newer.
    if [ "$(cat "$home/compiled" 2>/dev/null)" != "$compiled" ]; then rm -rf "$home/source"; fi
    mkdir -p "$home/source"
    find "$home/source" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
    find "$home/source" -path '*/build/lib*' -type f ! -name '*.so' -delete
    git ls-files -z --cached --others --exclude-standard |
        tar --null --files-from=- --ignore-failed-read --mtime=2000-01-01 -c | tar -x -C "$home/source"
    inside "$root" "$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
        --no-build-isolation --force-reinstall "$place/source" || return
    echo "$compiled" >"$home/compiled"
    rm -rf "$home/source/pympipool" # so that the tests find what is installed
}

# run_tests ROOT PLACE MARKS TESTS ...: runs tests that have these marks, as an expression of pytest.
run_tests() {
    local root=$1 place=$2 marks=$3
    shift 3
    export -f inside
    # The source may be a link to this checkout, so there is no ../venv beside it.
    timeout --kill-after=10 "$tests_limit_s" bash -c 'inside "$@"' - "$root" sh -c 'cd "$1/source" && python=$1/venv/bin/python &&
        shift && exec "$python" -m pytest -q -n 2 -p no:cacheprovider -m "$@"' - "$place" "$marks" "$@"
}

# note NAME CODE: adds a failure of this name to `failed`, unless the code is that of success or of a time limit.
note() {
    case $2 in
    0) ;;
    124) echo "--- $1: the tests have not ended within $tests_limit_s s, and say nothing" ;;
    *) failed+=" $1" ;;
    esac
}
