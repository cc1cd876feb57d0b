{{- define "ksm-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select a component's pods: (dict "root" $ "component" "agent"). */}}
{{- define "ksm-operator.selectorLabels" -}}
app.kubernetes.io/name: ksm-operator
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of a pod template: nothing that changes when only the chart does, so that a chart's new
version alone restarts no agent. (dict "root" $ "component" "agent"). */}}
{{- define "ksm-operator.podLabels" -}}
{{ include "ksm-operator.selectorLabels" . }}
app.kubernetes.io/part-of: ksm-operator
{{- end -}}

{{/* Recommended labels of every object: (dict "root" $ "component" "agent"). */}}
{{- define "ksm-operator.labels" -}}
{{ include "ksm-operator.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "ksm-operator.image" -}}
{{- $repository := required "image.repository is empty: write where your cluster pulls the image of ksm-operator from, for example --set image.repository=registry.example.com/platform/ksm-operator" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The user name of a service account of ours, by component. */}}
{{- define "ksm-operator.userName" -}}
{{- printf "system:serviceaccount:%s:%s-%s" .root.Release.Namespace (include "ksm-operator.fullname" .root) .component -}}
{{- end -}}

{{/* What every pod that runs ksm-controller has in common. */}}
{{- define "ksm-operator.controllerPod" -}}
nodeSelector:
  kubernetes.io/os: linux
  {{- with .Values.controller.nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.controller.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.controller.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.controller.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* What every container that runs ksm-controller has in common. */}}
{{- define "ksm-operator.controllerContainer" -}}
image: {{ include "ksm-operator.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [ksm-controller]
env:
  - name: POD_NAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: POD_NAMESPACE
    valueFrom:
      fieldRef:
        fieldPath: metadata.namespace
resources:
  {{- toYaml .Values.controller.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* What it takes to ask the API server who reads /metrics. Nothing is stored by either. */}}
{{- define "ksm-operator.reviewRules" -}}
{{- if .Values.metrics.authentication -}}
# Whose token is this, and may that account get /metrics?
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
{{- end -}}
{{- end -}}
