// Package deploy holds the manifest that runs the agent on every node of a
// cluster, for programs that apply it.
package deploy

import (
	"bytes"
	_ "embed" // for the manifest
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"sigs.k8s.io/yaml"
)

//go:embed overlab.yaml
var manifest []byte

// What the manifest calls its parts.
const (
	// Namespace is that of the DaemonSet.
	Namespace = "overlab-system"
	// DaemonSet is the name of the DaemonSet, its container and its ConfigMap.
	DaemonSet = "overlabd"
	// HealthPort is where the agent answers /healthz, /readyz and /metrics.
	HealthPort = 8471
)

// Options change the manifest.
type Options struct {
	// NetConf replaces net-conf.json, flannel's configuration.
	NetConf []byte
	// Image replaces the agent's image; empty leaves it.
	Image string
	// NoMasquerade leaves --ip-masq out.
	NoMasquerade bool
}

// Manifest returns the manifest with the options' changes, as a List in JSON,
// which `kubectl apply` reads as it reads YAML.
func Manifest(o Options) ([]byte, error) {
	list := map[string]any{"apiVersion": "v1", "kind": "List"}
	var items []any
	for _, doc := range bytes.Split(manifest, []byte("\n---\n")) {
		object := map[string]any{}
		if err := yaml.Unmarshal(doc, &object); err != nil {
			return nil, fmt.Errorf("read the agent's manifest: %w", err)
		}
		if err := o.change(object); err != nil {
			return nil, fmt.Errorf("change the agent's manifest: %w", err)
		}
		items = append(items, object)
	}
	list["items"] = items
	return json.MarshalIndent(list, "", "  ")
}

func (o Options) change(object map[string]any) error {
	switch object["kind"] {
	case "ConfigMap":
		data, ok := object["data"].(map[string]any)
		if !ok {
			return errors.New("the ConfigMap has no data")
		}
		if len(o.NetConf) > 0 {
			data["net-conf.json"] = string(o.NetConf)
		}
	case "DaemonSet":
		template, _ := object["spec"].(map[string]any)["template"].(map[string]any)
		pod, ok := template["spec"].(map[string]any)
		if !ok {
			return errors.New("the DaemonSet has no pod template")
		}
		for _, key := range []string{"initContainers", "containers"} {
			containers, _ := pod[key].([]any)
			for _, c := range containers {
				o.container(c.(map[string]any))
			}
		}
	}
	return nil
}

func (o Options) container(c map[string]any) {
	if o.Image != "" {
		c["image"] = o.Image
	}
	if args, ok := c["args"].([]any); ok && o.NoMasquerade {
		c["args"] = slices.DeleteFunc(args, func(a any) bool { return a == "--ip-masq" })
	}
}
