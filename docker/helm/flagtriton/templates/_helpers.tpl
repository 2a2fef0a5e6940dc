{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- define "flagtriton.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "flagtriton.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "flagtriton.labels" -}}
{{ include "flagtriton.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Which labels replicas bear: KServe gives them its own. */ -}}
{{- define "flagtriton.replicas" -}}
{{- if .Values.kserve.enabled -}}
serving.kserve.io/inferenceservice: {{ include "flagtriton.name" . }}
{{- else -}}
{{ include "flagtriton.selector" . }}
{{- end -}}
{{- end -}}

{{- define "flagtriton.adminSecret" -}}
{{ .Values.adminSecret | default (printf "%s-admin" (include "flagtriton.name" .)) }}
{{- end -}}

{{- /* The container, the same in a Deployment and in KServe's runtime. */ -}}
{{- define "flagtriton.container" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: FLAGTRITON_MODELS
    value: {{ join "\n" .Values.models | quote }}
  - name: FLAGTRITON_SERVE
    value: {{ include "flagtriton.serve" . | quote }}
  - name: FLAGTRITON_SECRET_FILE
    value: /run/secrets/flagtriton/secret
  {{- if .Values.offline }}
  - name: HF_HUB_OFFLINE
    value: "1"
  {{- end }}
  {{- with .Values.hubTokenSecret }}
  - name: HF_TOKEN
    valueFrom:
      secretKeyRef: {name: {{ . }}, key: token}
  {{- end }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- $resources := deepCopy .Values.resources }}
  {{- if .Values.gpu.count }}
  {{- $gpus := dict .Values.gpu.resource .Values.gpu.count }}
  {{- $resources = mustMergeOverwrite $resources (dict "requests" (deepCopy $gpus) "limits" (deepCopy $gpus)) }}
  {{- end }}
  {{- toYaml $resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: shm, mountPath: /dev/shm}
  - {name: tmp, mountPath: /tmp}
  - {name: models, mountPath: /models}
  - {name: cache, mountPath: /cache}
  - {name: admin, mountPath: /run/secrets/flagtriton, readOnly: true}
# Ready only while every deployment answers a real request: Triton itself calls a model ready whose process is dead.
startupProbe:
  httpGet: {path: /healthz, port: 8003}
  periodSeconds: 5
  failureThreshold: {{ mul .Values.startupMinutes 12 }}
readinessProbe:
  httpGet: {path: /healthz, port: 8003}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: "/livez?within={{ .Values.restartAfterSeconds }}", port: 8003}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
lifecycle:
  preStop:
    exec: {command: ["sleep", {{ .Values.preStopSeconds | quote }}]}
{{- end -}}

{{- define "flagtriton.serve" -}}
{{- $quoted := list -}}
{{- range concat (list "--grace-period" (toString .Values.gracePeriodSeconds)) .Values.serve -}}
{{- $quoted = append $quoted (squote .) -}}
{{- end -}}
{{- join " " $quoted -}}
{{- end -}}

{{- /* What a replica is beside its container, likewise. */ -}}
{{- define "flagtriton.pod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: {type: RuntimeDefault}
automountServiceAccountToken: false
terminationGracePeriodSeconds: {{ add .Values.preStopSeconds .Values.gracePeriodSeconds 10 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
volumes:
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: {{ .Values.sharedMemory }}}
  - name: tmp
    emptyDir: {sizeLimit: 1Gi}
  - name: models
    emptyDir: {sizeLimit: 1Gi}
  - name: cache
    {{- if .Values.cache.existingClaim }}
    persistentVolumeClaim: {claimName: {{ .Values.cache.existingClaim }}}
    {{- else }}
    emptyDir: {sizeLimit: {{ .Values.cache.size }}}
    {{- end }}
  - name: admin
    secret: {secretName: {{ include "flagtriton.adminSecret" . }}, defaultMode: 0440}
{{- end -}}
