{{/* The agents' DaemonSet. The controller applies it, owned by its Deployment. */}}
{{- define "ksm-operator.agentDaemonSet" -}}
{{- if ((.Values.agent.resources).limits).cpu -}}
{{- fail "agent.resources.limits.cpu: a throttled agent would hold the processes that it enrols stopped. Remove the limit; the agent's work is bounded by itself." -}}
{{- end -}}
{{- $names := dict "root" . "component" "agent" -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ include "ksm-operator.fullname" . }}-agent
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "ksm-operator.labels" $names | nindent 4 }}
spec:
  selector:
    matchLabels:
      {{- include "ksm-operator.selectorLabels" $names | nindent 6 }}
  updateStrategy:
    {{- toYaml .Values.agent.updateStrategy | nindent 4 }}
  template:
    metadata:
      labels:
        {{- include "ksm-operator.podLabels" $names | nindent 8 }}
        {{- with .Values.agent.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.agent.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "ksm-operator.fullname" . }}-agent
      automountServiceAccountToken: true
      hostPID: true
      nodeSelector:
        kubernetes.io/os: linux
        ksm-operator.node-restriction.kubernetes.io/agent: "true"
      {{- with .Values.agent.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      priorityClassName: {{ .Values.agent.priorityClassName }}
      terminationGracePeriodSeconds: 30
      {{- with .Values.image.pullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: agent
          image: {{ include "ksm-operator.image" . }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          command: [ksm-agent]
          args:
            {{- include "ksm-operator.agentArguments" . | nindent 12 }}
          env:
            - name: NODE_NAME
              valueFrom:
                fieldRef:
                  fieldPath: spec.nodeName
            - name: POD_NAMESPACE
              valueFrom:
                fieldRef:
                  fieldPath: metadata.namespace
          ports:
            - name: http
              containerPort: 8080
          livenessProbe:
            httpGet:
              path: /healthz
              port: http
            initialDelaySeconds: 10
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet:
              path: /healthz
              port: http
            periodSeconds: 5
            timeoutSeconds: 5
          resources:
            {{- toYaml .Values.agent.resources | nindent 12 }}
          securityContext:
            privileged: true
            runAsUser: 0
            seccompProfile:
              type: Unconfined
            appArmorProfile:
              type: Unconfined
            {{- with .Values.agent.seLinuxType }}
            seLinuxOptions:
              type: {{ . }}
            {{- end }}
          volumeMounts:
            - name: state
              mountPath: /run/ksm-operator
      volumes:
        - name: state
          hostPath:
            path: /run/ksm-operator
            type: DirectoryOrCreate
{{- end -}}

{{/* Pinned by the admission policy of the controller too. */}}
{{- define "ksm-operator.agentArguments" -}}
- --log-level
- {{ .Values.logLevel }}
- --http-port
- "8080"
- --state-dir
- /run/ksm-operator
{{- if not .Values.metrics.authentication }}
- --open-metrics
{{- end }}
{{- if .Values.metrics.perContainer }}
- --container-metrics
{{- end }}
{{- end -}}
