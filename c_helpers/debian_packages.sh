#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Downloads Debian packages and unpacks them into a folder, without root and without installing anything.
# usage: debian_packages.sh [--closure | --suite SUITE] FOLDER PACKAGE...
#        debian_packages.sh --list FOLDER PATTERN
#   --closure   also everything that the packages depend on, as for an empty machine (a root file system)
#   --suite     of another release of Debian (trixie), from where the machine has its own
#   --list      prints the names of the packages that match a regular expression; FOLDER is for scratch
# Leaves FOLDER/packages.txt: one "name_version_architecture" a line, of what was unpacked.
set -eu
usage='usage: debian_packages.sh [--closure|--suite SUITE|--list] FOLDER PACKAGE...'
closure= list= suite=
case "${1:-}" in
--closure) closure=1; shift ;;
--suite) suite=${2:?$usage}; shift 2 ;;
--list) list=1; shift ;;
esac
folder=${1:?$usage}; shift
[ $# -gt 0 ] || { echo "$usage" >&2; exit 2; }
mkdir -p "$folder/.apt/lists/partial" "$folder/.apt/archives/partial" "$folder/.apt/debs/partial"
folder=$(cd "$folder" && pwd)
: >"$folder/.apt/status"
apt="apt-get -q -o Dir::State::Lists=$folder/.apt/lists -o Dir::Cache=$folder/.apt -o APT::Sandbox::User="
apt="$apt -o Debug::NoLocking=1"
fetch() {
    if [ -n "$closure" ]; then # with an empty status file apt takes the machine for one that has nothing yet
        $apt -o Dir::State::Status="$folder/.apt/status" -o Dir::Cache::Archives="$folder/.apt/debs" \
            -y --no-install-recommends --download-only install "$@"
    else
        (cd "$folder/.apt/debs" && $apt download "$@")
    fi
}
update() { $apt update >"$folder/.apt/update.log" 2>&1 || { cat "$folder/.apt/update.log" >&2; exit 1; }; }
update
if [ -n "$suite" ]; then
    # The machine's own release vouches for the other's keys, which an older installation does not have. With an empty
    # status file and no other source, apt has nothing newer or installed to prefer.
    uri=$($apt indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 'Component: main' | head -n 1)
    [ -n "$uri" ] || { echo "no source of Debian's own packages is configured" >&2; exit 1; }
    mkdir "$folder/.apt/keys"
    (cd "$folder/.apt/keys" && $apt download debian-archive-keyring >"$folder/.apt/download.log" 2>&1 &&
        dpkg -x ./*.deb .) || { cat "$folder/.apt/download.log" >&2; exit 1; }
    keys=$folder/.apt/keys/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keys] $uri $suite main" >"$folder/.apt/sources.list"
    apt="$apt -o Dir::Etc::SourceList=$folder/.apt/sources.list -o Dir::Etc::SourceParts=/dev/null"
    apt="$apt -o Dir::State::Status=$folder/.apt/status"
    update
fi
if [ -n "$list" ]; then
    apt-cache -o Dir::State::Lists="$folder/.apt/lists" -o Dir::Cache="$folder/.apt" search --names-only "$1" |
        cut -d ' ' -f 1
    rm -rf "$folder/.apt"
    exit
fi
fetch "$@" >"$folder/.apt/download.log" 2>&1 || { cat "$folder/.apt/download.log" >&2; exit 1; }
for deb in "$folder"/.apt/debs/*.deb; do
    dpkg -x "$deb" "$folder"
    basename "$deb" .deb
done >"$folder/packages.txt"
rm -rf "$folder/.apt"
