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

{{/* keybearer.yaml: the values' map with what is not in it, or the values' text. Defaults stand here and not in
values.yaml, where Helm would mix them with the map of somebody who has other listeners. */}}
{{- define "keybearer.config" -}}
{{- if .Values.configText -}}
{{ .Values.configText }}
{{- else -}}
{{- $config := deepCopy .Values.config -}}
{{- if not $config.routes -}}
{{- fail "config.routes is missing: give your profiles and routes with --values FILE (values-example.yaml is one to begin with), or all of keybearer.yaml with --set-file configText=FILE" -}}
{{- end -}}
{{- if not $config.listeners -}}
{{- $_ := set $config "listeners" (dict "local" (dict "address" (printf "0.0.0.0:%v" .Values.service.targetPort))) -}}
{{- end -}}
{{- $reached := false -}}
{{- range $config.listeners -}}
{{- if and (hasSuffix (printf ":%v" $.Values.service.targetPort) .address) (not (hasPrefix "127." .address)) -}}
{{- $reached = true -}}
{{- end -}}
{{- end -}}
{{- if not $reached -}}
{{- fail (printf "no listener of config has the address 0.0.0.0:%v, which the service reaches (service.targetPort)" .Values.service.targetPort) -}}
{{- end -}}
{{- range $key, $value := dict "watch" true "workers" 2 -}}
{{- if not (hasKey $config $key) -}}
{{- $_ := set $config $key $value -}}
{{- end -}}
{{- end -}}
{{- if hasKey $config "admin" -}}
{{- $own := $config.admin | default dict -}}
{{- $address := $own.address | default "" | toString -}}
{{- if .Values.admin.tls.secretName -}}
{{- $isInPod := or (hasPrefix "127." $address) (hasPrefix "[::1]" $address) (hasPrefix "unix:" $address) -}}
{{- $wantsCertificates := hasKey ($own.tls | default dict) "client_ca" -}}
{{- if or $isInPod $wantsCertificates (not $own.tls) (not (hasSuffix ":9901" $address)) -}}
{{- fail "config.admin is not what the probes ask: with admin.tls.secretName its address is 0.0.0.0:9901, and it has tls without client_ca (leave config.admin out, and the chart writes it)" -}}
{{- end -}}
{{- else if or $own.tls (ne $address "127.0.0.1:9901") -}}
{{- fail "config.admin is not what the probes ask: without admin.tls.secretName its address is 127.0.0.1:9901, and it has no tls (leave config.admin out, and the chart writes it)" -}}
{{- end -}}
{{- else -}}
{{- if .Values.admin.tls.secretName -}}
{{- $name := printf "%s.%s" (include "keybearer.name" .) .Release.Namespace -}}
{{- $_ := set $config "admin" (dict
  "address" "0.0.0.0:9901"
  "hosts" (list (include "keybearer.name" .) $name (printf "%s.svc" $name) (printf "%s.svc.cluster.local" $name))
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
