{{/* Labels of every object. */}}
{{- define "fairway.labels" -}}
app.kubernetes.io/part-of: fairway
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- range $name, $value := .Values.labels }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Image of a part; takes a list of the chart's root and the part's name. */}}
{{- define "fairway.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Address of the controller for proxies. */}}
{{- define "fairway.controller" -}}
https://fairway-controller.{{ .Release.Namespace }}.svc:15012
{{- end -}}

{{- define "fairway.pullSecrets" -}}
{{- if .Values.image.pullSecrets }}
imagePullSecrets:
{{- range .Values.image.pullSecrets }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Further variables of a container: its `env`. */}}
{{- define "fairway.env" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}
