#!/usr/bin/env bash
# `make cluster`: a real one-node Kubernetes on this machine with the operator, installed by its
# charts, and the FlightCluster of flightcluster.yaml. `make cluster-down` removes all of it.
#
#   FLIGHTCLUSTER_BINARIES   folder with flightcluster, flightcluster-operator, flightcluster-node
set -euo pipefail

binaries=${FLIGHTCLUSTER_BINARIES:?the folder with the binaries; run this by make cluster}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
node=$binaries/flightcluster-node
system=flightcluster-system
# The image that the node made of the binaries.
image=localhost/flightcluster tag=dev

inside() { "$node" exec -- "$@"; }

"$node" up --binaries "$binaries" >/dev/null
echo "the node is ready"

inside helm upgrade --install flightcluster-crds "$root/charts/flightcluster-crds" --wait >/dev/null
inside helm upgrade --install flightcluster-operator "$root/charts/flightcluster-operator" \
    --namespace "$system" --create-namespace --wait --timeout 2m \
    --set image.repository="$image" --set image.tag="$tag" >/dev/null
echo "the operator runs in namespace $system"

inside kubectl apply --filename "$root/examples/flightcluster.yaml"
if ! inside kubectl wait fltc/demo --for condition=Ready --timeout 5m; then
    inside kubectl describe fltc/demo >&2
    inside kubectl get pods --all-namespaces >&2
    exit 1
fi
inside kubectl get fltc,pods

folder=${FLIGHTCLUSTER_CACHE:-$HOME/.cache/flightcluster}/cluster
mkdir -p "$folder"
chmod 700 "$folder"
for key in ca.crt token; do
    inside kubectl get secret demo-connection \
        --output "go-template={{index .data \"$key\" | base64decode}}" >"$folder/$key"
done
uri=$(inside kubectl get secret demo-connection \
    --output 'go-template={{.data.uri | base64decode}}')
ingest_uri=$(inside kubectl get secret demo-connection \
    --output 'go-template={{index .data "ingest-uri" | base64decode}}')

cat <<END

A FlightCluster runs in a Kubernetes of its own. Its network is private: a command sees it when it is
run by the first line, as in all of these.

  $node exec -- bash

kubectl and helm:
  $node exec -- kubectl get fltc,statefulsets,pods,services
  $node exec -- kubectl describe fltc demo

The command line (CA and token are from the Secret demo-connection):
  $node exec -- env FLIGHTCLUSTER_CA=$folder/ca.crt FLIGHTCLUSTER_TOKEN=\$(cat $folder/token) \\
    $binaries/flightcluster put $root/examples/weather.parquet --uri $ingest_uri --table weather
  $node exec -- env FLIGHTCLUSTER_CA=$folder/ca.crt FLIGHTCLUSTER_TOKEN=\$(cat $folder/token) \\
    $binaries/flightcluster query "SELECT origin, count(*) FROM weather GROUP BY origin" --uri $uri

Python (a python3 with pyarrow; \`make test STAGES=setup\` puts one at
${FLIGHTCLUSTER_CACHE:-$HOME/.cache/flightcluster}/venv/bin/python):
$node exec -- python3 -c '
import json, pathlib, pyarrow.flight as flight
folder = pathlib.Path("$folder")
client = flight.connect("$uri", tls_root_certs=(folder / "ca.crt").read_bytes())
token = [(b"authorization", b"Bearer " + (folder / "token").read_bytes())]
ticket = flight.Ticket(json.dumps({"database": "default", "sql_query": "SELECT * FROM weather"}))
print(client.do_get(ticket, flight.FlightCallOptions(headers=token)).read_all())'

make cluster-down removes everything.
END
