// Command schema reads Kubernetes manifests on standard input and decodes each
// document into the published type of its kind: unknown fields, and values of
// the wrong kind, are errors. It is a module of its own, so that sysmgr does
// not depend on what it needs.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(err)
	}
	for i, document := range bytes.Split(text, []byte("\n---\n")) {
		var kind meta.TypeMeta
		if err := yaml.Unmarshal(document, &kind); err != nil {
			fail(err)
		}
		var into any
		switch kind.APIVersion + " " + kind.Kind {
		case "apps/v1 Deployment":
			into = new(apps.Deployment)
		case "v1 Service":
			into = new(core.Service)
		default:
			fail(fmt.Errorf("document %d: unknown kind %s %s", i+1, kind.APIVersion, kind.Kind))
		}
		if err := yaml.UnmarshalStrict(document, into); err != nil {
			fail(fmt.Errorf("document %d: %w", i+1, err))
		}
		fmt.Println(kind.APIVersion, kind.Kind)
		d, ok := into.(*apps.Deployment)
		if !ok {
			continue
		}
		// The commands, for the test to run.
		for _, c := range d.Spec.Template.Spec.Containers {
			show("command", c.Command)
			for _, p := range []*core.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
				if p != nil && p.Exec != nil {
					show("probe", p.Exec.Command)
				}
			}
		}
	}
}

func show(what string, words []string) {
	text, err := json.Marshal(words)
	if err != nil {
		fail(err)
	}
	fmt.Printf("%s %s\n", what, text)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "schema:", err)
	os.Exit(1)
}
