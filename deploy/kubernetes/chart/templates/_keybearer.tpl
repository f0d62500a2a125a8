{{/* The name of every object: the release's, with the chart's unless it is in it. */}}
{{- define "keybearer.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "keybearer.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keybearer.labels" -}}
{{ include "keybearer.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "keybearer.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "keybearer.name" .) -}}
{{- end -}}

{{/* keybearer.yaml: the values' map with the admin listener in it, or the values' text. */}}
{{- define "keybearer.config" -}}
{{- if .Values.configText -}}
{{ .Values.configText }}
{{- else -}}
{{- $config := deepCopy .Values.config -}}
{{- if not (hasKey $config "admin") -}}
{{- if .Values.admin.tls.secretName -}}
{{- $_ := set $config "admin" (dict
  "address" "0.0.0.0:9901"
  "tls" (dict
    "certificate" (dict "file" "/etc/keybearer-admin/tls.crt")
    "key" (dict "file" "/etc/keybearer-admin/tls.key"))
  "token" (dict "file" "/etc/keybearer-admin/token")) -}}
{{- else -}}
{{- $_ := set $config "admin" (dict "address" "127.0.0.1:9901") -}}
{{- end -}}
{{- end -}}
{{ toYaml $config }}
{{- end -}}
{{- end -}}
