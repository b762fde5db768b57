#!/usr/bin/env bash
# Compiles the tools of the end-to-end node from their published Go modules.
#
#   e2e/tools/build.sh [FAMILY…]      without arguments: every family
#
# Binaries go to ${FLIGHTCLUSTER_CACHE:-$HOME/.cache/flightcluster}/tools/bin, never into the clone.
# A family is compiled again only when its go.mod, its go.sum, its flags or the Go release changed.
# FLIGHTCLUSTER_GO_JOBS limits how many packages Go compiles at once (default: the number of cores).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${FLIGHTCLUSTER_CACHE:-$HOME/.cache/flightcluster}
bin=$cache/tools/bin
stamps=$cache/tools/stamps
jobs=${FLIGHTCLUSTER_GO_JOBS:-$(nproc)}

# The modules decide the release; a newer toolchain is never downloaded behind the user's back.
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0 GOWORK=off

kubernetes_version=v1.36.3

# The -ldflags of a family. Kubernetes reports v0.0.0-master without them, and every check of the
# skew between client and server misfires. Helm assumes an old Kubernetes when it has no server.
linker_flags() {
    local flags="-s -w" package
    case $1 in
    kubernetes)
        for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
            flags+=" -X $package.gitVersion=$kubernetes_version"
            flags+=" -X $package.gitMajor=1 -X $package.gitMinor=36"
            flags+=" -X $package.gitCommit=from-published-module -X $package.gitTreeState=clean"
            flags+=" -X $package.buildDate=1970-01-01T00:00:00Z"
        done
        ;;
    helm)
        for package in helm.sh/helm/v3/pkg/chartutil helm.sh/helm/v3/pkg/lint/rules; do
            flags+=" -X $package.k8sVersionMajor=1 -X $package.k8sVersionMinor=36"
        done
        ;;
    esac
    printf '%s' "$flags"
}

# The package paths of the `tool` lines of a go.mod.
tool_packages() {
    awk '/^tool \(/ {inside = 1; next} inside && /^\)/ {exit} inside {print $1}
         /^tool [^(]/ {print $2}' "$1/go.mod"
}

# The file name of a tool: the last element of its path, except where that is a major version.
binary_name() {
    case $1 in
    go.etcd.io/etcd/server/v3) echo etcd ;;
    *) basename "$1" ;;
    esac
}

build_family() {
    local family=$1 folder=$here/$1 flags stamp package name begun complete=yes
    flags=$(linker_flags "$family")
    stamp=$( (cat "$folder/go.mod" "$folder/go.sum"; echo "$flags"; go env GOVERSION GOARCH) |
        sha256sum | cut -d' ' -f1)
    for package in $(tool_packages "$folder"); do
        [ -x "$bin/$(binary_name "$package")" ] || complete=no
    done
    if [ "$complete" = yes ] && [ "$(cat "$stamps/$family" 2>/dev/null)" = "$stamp" ]; then
        echo "$family: up to date"
        return
    fi
    rm -f "$stamps/$family"
    for package in $(tool_packages "$folder"); do
        name=$(binary_name "$package")
        begun=$SECONDS
        (cd "$folder" && go build -p "$jobs" -trimpath -buildvcs=false -ldflags "$flags" \
            -o "$bin/.$name.new" "$package")
        mv "$bin/.$name.new" "$bin/$name"
        echo "$family: $name in $((SECONDS - begun)) s"
    done
    echo "$stamp" >"$stamps/$family"
}

families=("$@")
if [ ${#families[@]} -eq 0 ]; then
    families=(kubernetes etcd containerd coredns helm versitygw)
fi
for family in "${families[@]}"; do
    if [ ! -f "$here/$family/go.mod" ]; then
        echo "unknown tool family '$family': the folders of $here are the families" >&2
        exit 2
    fi
done
if ! command -v go >/dev/null; then
    echo "the Go toolchain is missing: install Go 1.26 or newer and put it on PATH" >&2
    exit 1
fi

mkdir -p "$bin" "$stamps"
# Two builds at once would only compete for the same cores and files.
exec 9>"$cache/tools/lock"
flock 9
for family in "${families[@]}"; do
    build_family "$family"
done
