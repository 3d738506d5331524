package deploy

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/overlab/overlab/agent/cni"
	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/internal/agentimage"
)

// parts reads the manifest's objects by kind, refusing keys that Kubernetes
// does not know.
func parts(t *testing.T, o Options) map[string]json.RawMessage {
	t.Helper()
	b, err := Manifest(o)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []json.RawMessage }
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	out := map[string]json.RawMessage{}
	for _, item := range list.Items {
		var head struct{ Kind string }
		if err := json.Unmarshal(item, &head); err != nil {
			t.Fatal(err)
		}
		out[head.Kind] = item
	}
	return out
}

func strict[T runtime.Object](t *testing.T, b []byte, into T) T {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%T: %v", into, err)
	}
	return into
}

func TestManifest(t *testing.T) {
	got := parts(t, Options{})
	role := strict(t, got["ClusterRole"], new(rbacv1.ClusterRole))
	for _, r := range role.Rules {
		for _, verb := range r.Verbs {
			if verb == "*" || verb == "create" || verb == "delete" || verb == "update" {
				t.Errorf("the agent may %s %v", verb, r.Resources)
			}
		}
	}
	conf := strict(t, got["ConfigMap"], new(corev1.ConfigMap))
	if _, err := lease.ParseConfig([]byte(conf.Data["net-conf.json"])); err != nil {
		t.Errorf("the agent does not take net-conf.json: %v", err)
	}
	var list struct{ Plugins []json.RawMessage }
	if err := json.Unmarshal([]byte(conf.Data["cni-conf.json"]), &list); err != nil || len(list.Plugins) != 1 {
		t.Fatalf("cni-conf.json: %v, %d plugins", err, len(list.Plugins))
	}
	if _, err := cni.ParseConfig(list.Plugins[0]); err != nil {
		t.Errorf("the plugin does not take its configuration: %v", err)
	}
	set := strict(t, got["DaemonSet"], new(appsv1.DaemonSet))
	spec := set.Spec.Template.Spec
	if set.Namespace != Namespace || set.Name != DaemonSet || spec.Containers[0].Name != DaemonSet {
		t.Errorf("the agents are %s/%s, container %s", set.Namespace, set.Name, spec.Containers[0].Name)
	}
	for _, c := range append(spec.InitContainers, spec.Containers...) {
		if c.Image != agentimage.Name {
			t.Errorf("container %s runs %s, and `overlab image agent` makes %s", c.Name, c.Image, agentimage.Name)
		}
		if c.SecurityContext != nil && *c.SecurityContext.Privileged {
			t.Errorf("container %s is privileged", c.Name)
		}
	}
	if port := spec.Containers[0].ReadinessProbe.HTTPGet.Port.IntValue(); port != HealthPort {
		t.Errorf("the agent is asked at port %d, not %d", port, HealthPort)
	}
}

func TestManifestChanged(t *testing.T) {
	got := parts(t, Options{NetConf: []byte(`{"Network": "10.9.0.0/16"}`), Image: "x/y:1", NoMasquerade: true})
	conf := strict(t, got["ConfigMap"], new(corev1.ConfigMap))
	if conf.Data["net-conf.json"] != `{"Network": "10.9.0.0/16"}` || !strings.Contains(conf.Data["cni-conf.json"], "overlab-cni") {
		t.Errorf("the configuration is %v", conf.Data)
	}
	spec := strict(t, got["DaemonSet"], new(appsv1.DaemonSet)).Spec.Template.Spec
	if spec.InitContainers[0].Image != "x/y:1" || spec.Containers[0].Image != "x/y:1" {
		t.Errorf("the images are %s and %s", spec.InitContainers[0].Image, spec.Containers[0].Image)
	}
	if args := strings.Join(spec.Containers[0].Args, " "); strings.Contains(args, "--ip-masq") || !strings.Contains(args, "--kube-subnet-mgr") {
		t.Errorf("the agent is called with %s", args)
	}
}
