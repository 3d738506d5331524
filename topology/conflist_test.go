package topology

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const bridgeList = `{"name": "mynet", "cniVersion": "1.0.0", "plugins": [
	{"type": "bridge", "bridge": "cni0", "mtu": "{{.MTU}}", "ipam": {"type": "host-local", "subnet": "{{.PodCIDR}}", "routes": [{"dst": "{{.Network}}"}]}},
	{"type": "portmap", "capabilities": {"portMappings": true}}]}`

// A list is the same in YAML, in JSON, and in a file beside the lab file; each
// node has its own values in it.
func TestConflist(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "10-mynet.conflist"), []byte(bridgeList), 0o644); err != nil {
		t.Fatal(err)
	}
	var plans []*Plan
	for _, cni := range []string{
		"    conflist: 10-mynet.conflist\n    pluginDirs: [plugins, /opt/cni/bin]\n",
		"    conflist: " + strings.ReplaceAll(bridgeList, "\t", " ") + "\n    pluginDirs: [plugins, /opt/cni/bin]\n",
		`    conflist:
      name: mynet
      cniVersion: "1.0.0"
      plugins:
      - type: bridge
        bridge: cni0
        mtu: "{{.MTU}}"
        ipam: {type: host-local, subnet: "{{.PodCIDR}}", routes: [{dst: "{{.Network}}"}]}
      - {type: portmap, capabilities: {portMappings: true}}
    pluginDirs: [plugins, /opt/cni/bin]
`,
	} {
		path := filepath.Join(dir, "lab.yaml")
		if err := os.WriteFile(path, []byte("apiVersion: overlab/v1alpha1\nkind: Lab\nspec:\n  cni:\n"+cni), 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Plan()
		if err != nil {
			t.Fatal(err)
		}
		plans = append(plans, p)
	}
	p := plans[0]
	for _, other := range plans[1:] {
		if !reflect.DeepEqual(p, other) {
			t.Errorf("the plans differ:\n%v\n%v", p.CNI, other.CNI)
		}
	}
	if want := []string{filepath.Join(dir, "plugins"), "/opt/cni/bin"}; !reflect.DeepEqual(p.CNI.PluginDirs, want) {
		t.Errorf("folders %v, want %v", p.CNI.PluginDirs, want)
	}
	got, err := p.ConflistOn(p.Node("node-2"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"mtu": 1450`, `"subnet": "10.244.2.0/24"`, `"dst": "10.244.0.0/16"`, `"name": "mynet"`} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if got, err := plan(t, "  {}\n").ConflistOn(p.Node("node-2")); got != nil || err != nil {
		t.Errorf("the bundled plugin's lab has a list: %s, %v", got, err)
	}
}

func TestConflistsThatAreRefused(t *testing.T) {
	const start = "apiVersion: overlab/v1alpha1\nkind: Lab\nspec:\n"
	for _, tc := range []struct{ name, spec, want string }{
		{"a number", "  cni: {conflist: 7}\n", "lab.yaml:4:19: spec.cni.conflist: is the number 7; the name of a file, or the list itself, belongs here"},
		{"no file", "  cni: {conflist: /none/10.conflist}\n", "lab.yaml:4:19: spec.cni.conflist: /none/10.conflist cannot be read: open /none/10.conflist: no such file"},
		{"no folder to see it from", "  cni: {conflist: 10.conflist}\n", "write an absolute path, or the list itself"},
		{"no name", "  cni: {conflist: {plugins: [{type: bridge}]}}\n", "spec.cni.conflist.name: is"},
		{"no plugins", "  cni: {conflist: {name: n, plugins: []}}\n", "lab.yaml:4:38: spec.cni.conflist.plugins: names no plugin"},
		{"a plugin without a type", "  cni: {conflist: {name: n, plugins: [{type: bridge}, {mtu: 7}]}}\n", "lab.yaml:4:55: spec.cni.conflist.plugins[1].type: is"},
		{"a plugin with a folder", "  cni: {conflist: {name: n, plugins: [{type: /bin/sh}]}}\n", "without a folder"},
		{"a version that is a number", "  cni: {conflist: {name: n, cniVersion: 1.0, plugins: [{type: x}]}}\n", `cniVersion: is 1; write text such as "1.0.0"`},
		{"an unknown placeholder", "  cni: {conflist: {name: n, plugins: [{type: x, subnet: '{{.Subnet}}'}]}}\n",
			`spec.cni.conflist.plugins[0].subnet: holds "{{.Subnet}}", which stands for nothing; known are {{.MTU}}, {{.Network6}}, {{.Network}}, {{.PodCIDR6}}, {{.PodCIDR}}`},
		{"keys that are no words", "  cni: {conflist: {1: {2: 3}}}\n", "spec.cni.conflist: is no JSON object"},
		{"folders of the bundled plugin", "  cni: {pluginDirs: [/opt/cni/bin]}\n", "spec.cni.pluginDirs: are given without a conflist"},
		{"a folder without a place", "  cni: {conflist: {name: n, plugins: [{type: x}]}, pluginDirs: [bin]}\n", `spec.cni.pluginDirs[0]: is "bin"; write an absolute path`},
		{"legacy records", "  cni: {conflist: {name: n, plugins: [{type: x}]}, legacyRecords: true}\n", "spec.cni.legacyRecords: is a matter of the bundled plugin"},
		{"a port that no plugin maps", "  cni: {conflist: {name: n, plugins: [{type: x}]}}\n  pods: [{name: p, node: master, ports: [{hostPort: 80}]}]\n", "spec.pods[0].ports[0]: needs a plugin with the capability portMappings"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse("lab.yaml", []byte(start+tc.spec))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got\n%v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestPorts(t *testing.T) {
	p := plan(t, `  pods:
  - {name: web, node: node-1, ports: [{hostPort: 8080, containerPort: 80}, {hostPort: 53, protocol: udp, hostIP: 172.16.1.2}]}
  - {name: other, node: node-2, ports: [{hostPort: 8080}]}
`)
	got := p.Pods[0].Ports
	if len(got) != 2 || got[0] != (Port{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}) ||
		got[1].ContainerPort != 53 || got[1].Protocol != "udp" || got[1].HostIP.String() != "172.16.1.2" {
		t.Errorf("ports %v", got)
	}
	const start = "apiVersion: overlab/v1alpha1\nkind: Lab\nspec:\n  pods:\n"
	for spec, want := range map[string]string{
		"  - {name: a, node: master, ports: [{hostPort: 0}]}\n":                                                                                          "spec.pods[0].ports[0].hostPort: is 0; it must be 1 to 65535",
		"  - {name: a, node: master, ports: [{containerPort: 80}]}\n":                                                                                    "spec.pods[0].ports[0].hostPort: is missing",
		"  - {name: a, node: master, ports: [{hostPort: 80, protocol: icmp}]}\n":                                                                         `protocol: is "icmp"; write tcp, udp or sctp`,
		"  - {name: a, node: master, ports: [{hostPort: 80}]}\n  - {name: b, node: master, ports: [{hostPort: 80, containerPort: 81}]}\n":                "spec.pods[1].ports[0].hostPort: is 80/tcp of master, as is spec.pods[0].ports[0]",
		"  - {name: a, node: master, ports: [{hostPort: 80, hostIP: 172.16.1.1}]}\n  - {name: b, node: master, ports: [{hostPort: 80, hostIP: '::'}]}\n": "choose another port",
	} {
		_, err := Parse("lab.yaml", []byte(start+spec))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got\n%v\nwant %s", spec, err, want)
		}
	}
}
