//! What templates become, by table. That Helm agrees is shown with the whole chart, in `manifests/tests/helm.rs`.

use serde_json::json;

use super::*;

fn rendered(text: &str) -> Result<String> {
    let mut templates = Templates::default();
    templates.add(
        "helpers",
        r#"{{ define "twice" }}{{ . }}{{ . }}{{ end }}{{ define "loop" }}{{ include "loop" . }}{{ end }}"#,
    )?;
    templates.add("it", text)?;
    let dot = json!({"Values": {"name": "a", "none": "", "count": 2, "on": true, "list": ["x", "y"],
        "map": {"k": "v", "b": {"c": 1}}, "empty": []}});
    templates.render("it", &dot)
}

#[test]
fn what_is_understood() {
    for (text, expected) in [
        ("plain", "plain"),
        ("{{ .Values.name }}", "a"),
        ("a  {{- .Values.name -}}  b", "aab"),
        ("{{/* }} not this */}}x{{- /* nor this */ -}} y", "xy"),
        ("{{ if .Values.none }}1{{ else if .Values.on }}2{{ else }}3{{ end }}", "2"),
        ("{{ if not .Values.on }}1{{ else }}3{{ end }}", "3"),
        ("{{ if and .Values.on (eq .Values.name \"a\") }}1{{ end }}", "1"),
        ("{{ if or .Values.none .Values.missing }}1{{ end }}", ""),
        ("{{ .Values.none | default \"d\" | quote }}", "\"d\""),
        ("{{ range .Values.list }}<{{ . }}{{ $.Values.name }}>{{ end }}", "<xa><ya>"),
        ("{{ range $key, $value := .Values.map.b }}{{ $key }}={{ $value }};{{ end }}", "c=1;"),
        ("{{ range $one := .Values.list }}{{ $one }}{{ end }}", "xy"),
        ("{{ range .Values.empty }}1{{ else }}none{{ end }}", "none"),
        ("{{ range .Values.list }}1{{ else }}none{{ end }}", "11"),
        ("{{ with .Values.map.b }}{{ .c }}{{ end }}{{ with .Values.none }}1{{ else }}2{{ end }}", "12"),
        ("{{ $x := printf \"%s-%d\" .Values.name 3 }}{{ $x }}", "a-3"),
        ("{{ include \"twice\" .Values.name | indent 2 }}", "  aa"),
        ("m:{{ toYaml .Values.map.b | nindent 2 }}", "m:\n  c: 1"),
        ("{{ .Values.map.b | toPrettyJson }}", "{\n  \"c\": 1\n}"),
        ("{{ list \"<&>\" | toPrettyJson }}", "[\n  \"\\u003c\\u0026\\u003e\"\n]"),
        ("{{ .Values.empty | toPrettyJson }}", "[]"),
        ("{{ join \",\" .Values.list }}", "x,y"),
        ("{{ \"a}}b\" }}{{ `c` }}", "a}}bc"),
    ] {
        assert_eq!(rendered(text), Ok(expected.to_owned()), "{text}");
    }
}

#[test]
fn what_is_not_understood_is_an_error_on_its_line() {
    for (text, line, word) in [
        ("\n{{ .Values.name", 2, "not closed"),
        ("{{ if .Values.on }}", 1, "no end"),
        ("{{ end }}", 1, "nothing to end"),
        ("a\n\n{{ nosuch .Values.on }}", 3, "nosuch"),
        ("{{ .Values.missing.deeper }}", 1, "deeper"),
        ("{{ $x }}", 1, "$x"),
        ("{{ include \"nothing\" . }}", 1, "nothing"),
        ("{{ include \"loop\" . }}", 1, "includes itself"),
        ("{{ fail \"because\" }}", 1, "because"),
        ("{{ (not true }}", 1, "not closed"),
        ("{{ not true) }}", 1, "never opened"),
        ("{{ .Values.on | }}", 1, "missing"),
        ("{{ .Values.on true }}", 1, "only functions"),
        ("{{ printf \"%s\" }}", 1, "too few"),
        ("{{ \"x }}", 1, "not closed"),
        ("{{ 1.5 }}", 1, "whole numbers"),
        ("{{ ~ }}", 1, "not understood"),
        ("{{ range .Values.name }}{{ end }}", 1, "go through"),
    ] {
        let failure = match rendered(text) {
            Err(failure) => failure,
            Ok(output) => panic!("{text} became {output:?}"),
        };
        assert!(failure.line == line && failure.message.contains(word), "{text}: {failure:?}");
    }
}
