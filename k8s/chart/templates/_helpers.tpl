{{- define "relay.labels" -}}
app.kubernetes.io/name: pubsub-relay
{{- end }}

{{- define "relay.metadata" -}}
name: relay
namespace: {{ .Release.Namespace }}
labels:
  {{- include "relay.labels" . | nindent 2 }}
{{- end }}

{{- define "relay.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default (printf "v%s" $.Chart.AppVersion) }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Folder of the mounted Secret or ConfigMap that an entry of `files` names. */}}
{{- define "relay.folder" -}}
{{ if .secret }}/var/run/secrets/{{ .secret }}{{ else }}/etc/relay/{{ .configMap }}{{ end }}
{{- end }}

{{- /* Settings and the paths of `files`, as the data of the ConfigMap. */}}
{{- define "relay.data" -}}
{{- $data := dict -}}
{{- range $name, $value := .Values.settings -}}
{{- if not (empty $value) -}}{{- $_ := set $data $name $value -}}{{- end -}}
{{- end -}}
{{- range $name, $file := .Values.files -}}
{{- $_ := set $data $name (printf "%s/%s" (include "relay.folder" $file) $file.key) -}}
{{- end -}}
{{- toYaml $data -}}
{{- end }}

{{- /* Refuses values that each are valid and do not fit together. The schema has the other rules. */}}
{{- define "relay.check" -}}
{{- $data := include "relay.data" . | fromYaml -}}
{{- $seconds := dict -}}
{{- range $part := list "DELAY" "SPREAD" "DEADLINE" -}}
{{- $name := printf "RELAY_DRAIN_%s" $part -}}
{{- $_ := set $seconds $part (get $data $name | default "" | trimSuffix "s" | atoi) -}}
{{- if not (hasKey $data $name) }}{{ fail (printf "settings.%s is missing" $name) }}{{ end -}}
{{- end -}}
{{- if ge (add $seconds.DELAY $seconds.SPREAD) (int64 $seconds.DEADLINE) -}}
{{- fail "settings: RELAY_DRAIN_DELAY and RELAY_DRAIN_SPREAD must end before RELAY_DRAIN_DEADLINE" -}}
{{- end -}}
{{- /* 15 s to delete the feed, flush the publisher, and flush telemetry. */ -}}
{{- if gt (add $seconds.DEADLINE 15) (int64 .Values.terminationGracePeriodSeconds) -}}
{{- fail "terminationGracePeriodSeconds must be at least RELAY_DRAIN_DEADLINE and 15 s" -}}
{{- end -}}
{{- range $name := keys .Values.files -}}
{{- if get $.Values.settings $name }}{{ fail (printf "%s is in settings and in files" $name) }}{{ end -}}
{{- end -}}
{{- $pods := ternary 2 (int .Values.replicas) .Values.gke.autoscaling.enabled -}}
{{- if and (gt $pods 1) (not $data.RELAY_BROKER) -}}
{{- fail "more than one pod needs settings.RELAY_BROKER: without it each pod has an in-memory broker of its own" -}}
{{- end -}}
{{- $jwt := eq ($data.RELAY_AUTH | default "") "jwt" -}}
{{- if and (hasPrefix "pubsub://" ($data.RELAY_BROKER | default "")) (not $data.PUBSUB_EMULATOR_HOST) (not $jwt) -}}
{{- fail "the real Pub/Sub needs settings.RELAY_AUTH=jwt: demo users are for an emulator" -}}
{{- end -}}
{{- if and .Values.gke.cloudSql.enabled (not (hasPrefix "postgres://127.0.0.1/" ($data.RELAY_BROKER | default ""))) -}}
{{- fail "gke.cloudSql needs settings.RELAY_BROKER=postgres://127.0.0.1/DATABASE: the proxy listens there" -}}
{{- end -}}
{{- if and .Values.gke.autoscaling.enabled (not .Values.gke.monitoring.enabled) -}}
{{- fail "gke.autoscaling reads metrics that gke.monitoring collects: enable both" -}}
{{- end -}}
{{- if .Values.gke.autoscaling.enabled -}}
{{- if .Values.replicas }}{{ fail "replicas would undo gke.autoscaling at each upgrade: leave it unset" }}{{ end -}}
{{- end -}}
{{- end }}
