#!/usr/bin/env bash
# Installs the Debian packages of the end-to-end node and of the product's image.
#
# Runs apt only when something is missing, so it needs root and a network only then.
set -euo pipefail

# PACKAGE=FILE: the package is there when the program (or, with a slash, the file) is.
needed=(
    conntrack=conntrack
    containernetworking-plugins=/usr/lib/cni/ptp
    curl=curl
    gcc=cc
    gzip=gzip
    iproute2=ip
    iptables=iptables
    libc6-dev=/usr/include/stdlib.h
    mmdebstrap=mmdebstrap
    nftables=nft
    runc=runc
    util-linux=unshare
)

export PATH=$PATH:/usr/sbin:/sbin

missing=()
for entry in "${needed[@]}"; do
    package=${entry%%=*} file=${entry#*=}
    case $file in
    /*) [ -e "$file" ] || missing+=("$package") ;;
    *) command -v "$file" >/dev/null || missing+=("$package") ;;
    esac
done
# The ordinary busybox package needs the C library, which an image of one file does not have.
if ! command -v busybox >/dev/null || ldd "$(command -v busybox)" >/dev/null 2>&1; then
    missing+=(busybox-static)
fi

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]} (names of Debian packages); install them with this system's" \
        "package manager" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "missing: ${missing[*]}; run e2e/setup.sh as root" >&2
    exit 1
fi
echo "installing ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${missing[@]}"
