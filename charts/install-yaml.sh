#!/bin/sh
# Writes install.yaml, the plain form of both charts for `kubectl apply --filename install.yaml`.
#
#   charts/install-yaml.sh           write it
#   charts/install-yaml.sh --check   lint the charts and fail when install.yaml is out of date
#
# Needs Helm: $HELM, or the one that the end-to-end tests build, or the one on the PATH.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
built="${FLIGHTCLUSTER_CACHE:-$HOME/.cache/flightcluster}/tools/bin/helm"
if [ -z "${HELM:-}" ]; then
    if [ -x "$built" ]; then HELM=$built; else HELM=helm; fi
fi
namespace=flightcluster-system

render() {
    cat <<HEADER
# The definition of FlightCluster and its operator, in the namespace $namespace.
# Generated from charts/ by charts/install-yaml.sh: don't edit.
---
apiVersion: v1
kind: Namespace
metadata:
  name: $namespace
  labels:
    pod-security.kubernetes.io/enforce: restricted
HEADER
    for chart in flightcluster-crds flightcluster-operator; do
        "$HELM" template flightcluster-operator "$root/charts/$chart" --namespace "$namespace" "$@"
    done | sed -e '/app.kubernetes.io\/managed-by: Helm/d' -e '/helm.sh\/chart:/d'
}

case "${1:-}" in
"")
    render >"$root/install.yaml"
    ;;
--check)
    "$HELM" lint --strict --quiet "$root/charts/flightcluster-crds" "$root/charts/flightcluster-operator"
    current=$(mktemp)
    trap 'rm -f "$current"' EXIT
    render >"$current"
    diff -u "$root/install.yaml" "$current" || {
        echo "install.yaml is out of date: run charts/install-yaml.sh" >&2
        exit 1
    }
    ;;
*)
    echo "usage: charts/install-yaml.sh [--check]" >&2
    exit 2
    ;;
esac
