{{- define "maestro.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "maestro.labels" -}}
app.kubernetes.io/name: maestro
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: maestro
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "maestro.selector" -}}
app.kubernetes.io/name: maestro
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "maestro.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "maestro.brokerSecret" -}}
{{- if .Values.rabbitmq.enabled -}}{{ include "maestro.name" . }}-broker{{- else -}}{{ required "rabbitmq.external.existingSecret is required when rabbitmq.enabled is false" .Values.rabbitmq.external.existingSecret }}{{- end -}}
{{- end -}}

{{- define "maestro.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "maestro.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The account of the HTTP API: with sqlite one pod has both roles, and one account. */}}
{{- define "maestro.apiAccount" -}}
{{- if eq .Values.store.type "sqlite" -}}{{ include "maestro.name" . }}{{- else -}}{{ include "maestro.name" . }}-api{{- end -}}
{{- end -}}

{{/* One pod template for all roles: .root, .role (all, controller, api), .component, .resources, .account, .volumes, .mounts */}}
{{- define "maestro.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "maestro.selector" . | nindent 4 }}
    app.kubernetes.io/part-of: maestro
    {{- with $root.Values.podLabels }}{{ toYaml . | nindent 4 }}{{- end }}
  {{- with $root.Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ .account }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: 30
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "maestro.podSecurity" $root | nindent 4 }}
  containers:
    - name: maestro
      image: {{ include "maestro.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [run]
      env:
        - {name: MAESTRO_ROLE, value: {{ .role }}}
        - {name: MAESTRO_RELEASE, value: {{ include "maestro.name" $root }}}
        - {name: MAESTRO_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        - {name: MAESTRO_IDENTITY, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: MAESTRO_WATCH_NAMESPACES, value: {{ join "," $root.Values.watch.namespaces | quote }}}
        - {name: MAESTRO_IMAGE, value: {{ include "maestro.image" $root | quote }}}
        - {name: MAESTRO_API_URL, value: "http://{{ include "maestro.name" $root }}.{{ $root.Release.Namespace }}.svc:{{ $root.Values.api.service.port }}"}
        - {name: MAESTRO_DEFAULT_NAMESPACE, value: {{ $root.Values.api.defaultNamespace | quote }}}
        - {name: MAESTRO_GATEWAY_OPEN, value: {{ $root.Values.gateway.open | quote }}}
        {{- with $root.Values.notifications.secrets }}
        - {name: MAESTRO_NOTIFICATION_SECRETS, value: {{ join "," . | quote }}}
        {{- end }}
        {{- if $root.Values.logins.enabled }}
        - {name: MAESTRO_USERS_SECRET, value: {{ include "maestro.name" $root }}-users}
        {{- end }}
        - {name: MAESTRO_BROKER_SECRET, value: {{ include "maestro.brokerSecret" $root }}}
        - {name: MAESTRO_BROKER_MANAGED, value: {{ $root.Values.rabbitmq.enabled | quote }}}
        - {name: MAESTRO_BROKER_HOST, value: "{{ include "maestro.name" $root }}-rabbitmq.{{ $root.Release.Namespace }}.svc"}
        - {name: MAESTRO_RESYNC_SECONDS, value: {{ $root.Values.controller.resyncSeconds | quote }}}
        - {name: MAESTRO_LOG_LEVEL, value: {{ $root.Values.controller.logLevel }}}
        {{- if eq $root.Values.store.type "sqlite" }}
        - {name: MAESTRO_STORE_URL, value: "sqlite:////var/lib/maestro/maestro.db"}
        {{- else }}
        - {name: MAESTRO_STORE_URL_FILE, value: /var/run/secrets/maestro-store/url}
        {{- end }}
        {{- if $root.Values.api.workerApiKeySecret }}
        - {name: MAESTRO_WORKER_API_KEY_FILE, value: /var/run/secrets/maestro-worker-key/key}
        {{- end }}
        {{- with $root.Values.controller.extraEnv }}{{ toYaml . | nindent 8 }}{{- end }}
      ports:
        - {name: metrics, containerPort: 8081}
        {{- if ne .role "controller" }}
        - {name: http, containerPort: 8080}
        - {name: gateway, containerPort: 6971}
        {{- end }}
      startupProbe: {httpGet: {path: /healthz, port: metrics}, periodSeconds: 1, failureThreshold: 120}
      livenessProbe: {httpGet: {path: /healthz, port: metrics}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
      readinessProbe: {httpGet: {path: /readyz, port: metrics}, periodSeconds: 2, timeoutSeconds: 5}
      resources: {{- toYaml .resources | nindent 8 }}
      securityContext: {{- include "maestro.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if eq $root.Values.store.type "sqlite" }}
        - {name: store, mountPath: /var/lib/maestro}
        {{- else }}
        - {name: store-url, mountPath: /var/run/secrets/maestro-store, readOnly: true}
        {{- end }}
        {{- if $root.Values.api.workerApiKeySecret }}
        - {name: worker-key, mountPath: /var/run/secrets/maestro-worker-key, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- if ne $root.Values.store.type "sqlite" }}
    - name: store-url
      secret:
        secretName: {{ required "store.postgresql.existingSecret is required when store.type is postgresql" $root.Values.store.postgresql.existingSecret }}
        items: [{key: {{ $root.Values.store.postgresql.key }}, path: url}]
    {{- end }}
    {{- with $root.Values.api.workerApiKeySecret }}
    - name: worker-key
      secret: {secretName: {{ . }}}
    {{- end }}
  {{- with $root.Values.controller.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.controller.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.controller.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
