{
  "subject": {
    "commonName": {{ toJson .Subject.CommonName }}
{{- with .Token.certbob }}
  {{- with .o }}, "organization": {{ toJson . }}{{ end }}
  {{- with .ou }}, "organizationalUnit": {{ toJson . }}{{ end }}
{{- end }}
  },
  "sans": {{ toJson .SANs }},
  "keyUsage": ["digitalSignature"],
  "extKeyUsage": ["clientAuth"],
  "basicConstraints": {"isCA": false, "maxPathLen": 0}
{{- with .crlURL }}, "crlDistributionPoints": [{{ toJson . }}]{{ end }}
}
