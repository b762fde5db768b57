{{- /* The name of all objects: that of the release. */ -}}
{{- define "flightcluster-operator.name" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "flightcluster-operator.selector" -}}
app.kubernetes.io/name: flightcluster-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "flightcluster-operator.labels" -}}
{{ include "flightcluster-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "flightcluster-operator.serviceAccount" -}}
{{- default (include "flightcluster-operator.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "flightcluster-operator.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- /*
What the operator calls, and nothing else. A server-side apply of an object that isn't there yet
needs create beside patch.
*/ -}}
{{- define "flightcluster-operator.rules" -}}
- apiGroups: [flightcluster.io]
  resources: [flightclusters]
  verbs: [list, watch]
- apiGroups: [flightcluster.io]
  resources: [flightclusters/status]
  verbs: [patch]
# Never called; asked for by API servers that check owner references (OwnerReferencesPermissionEnforcement).
- apiGroups: [flightcluster.io]
  resources: [flightclusters/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [configmaps, secrets, serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims, pods]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
