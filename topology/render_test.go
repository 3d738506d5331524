package topology

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

func TestWriteTable(t *testing.T) {
	p := plan(t, "  nodes: [{name: master, role: control-plane}, {name: node-1}]\n  podsPerNode: 1\n")
	var b bytes.Buffer
	if err := WriteTable(&b, p); err != nil {
		t.Fatal(err)
	}
	const want = `lab lab, provider netns
network 10.244.0.0/16, a /24 a node
backend vxlan, VNI 1, port 8472
store etcd on master, port 2379, prefix /coreos.com/network

NODE    ROLE           PUBLIC IP   POD CIDR       OVERLAY MTU
master  control-plane  172.16.1.1  10.244.0.0/24  1450
node-1  worker         172.16.1.2  10.244.1.0/24  1450

MACHINE  INTERFACE  SEGMENT  ADDRESS        MAC                MTU
master   eth0       lan      172.16.1.1/24  da:26:5b:14:4f:50  1500
node-1   eth0       lan      172.16.1.2/24  2a:24:a4:c5:34:1f  1500

POD    NODE    ADDRESS        MAC                ON THE NODE
pod-1  master  10.244.0.2/24  2e:d9:c6:9a:af:68  veth1437f370
pod-2  node-1  10.244.1.2/24  52:12:71:58:92:02  veth5446ea6f
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTableFits80Columns(t *testing.T) {
	long := strings.Repeat("n", 63)
	p := plan(t, "  network: {EnableIPv6: true}\n  underlay: [{name: "+long[:50]+", cidr: 10.0.0.0/24, cidr6: \"fd00:1111:2222:3333:4444:5555:6666:0/112\"}]\n"+
		"  nodes: [{name: "+long+", interfaces: [{name: "+long+", address6: \"fd00:1111:2222:3333:4444:5555:6666:7777\"}]}]\n"+twoPodsOn(long))
	var b bytes.Buffer
	if err := WriteTable(&b, p); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if !strings.Contains(b.String(), "nnn…") {
		t.Errorf("no cut name in\n%s", &b)
	}
}

func twoPodsOn(node string) string {
	return "  pods: [{name: p" + node[:60] + ", node: " + node + "}, {name: q, node: " + node + "}]\n"
}

// The three forms say the same.
func TestJSONAndYAMLOfAPlan(t *testing.T) {
	p := plan(t, twoRouters)
	var j, y bytes.Buffer
	if err := WriteJSON(&j, p); err != nil {
		t.Fatal(err)
	}
	if err := WriteYAML(&y, p); err != nil {
		t.Fatal(err)
	}
	var back Plan
	if err := json.Unmarshal(j.Bytes(), &back); err != nil || !reflect.DeepEqual(&back, p) {
		t.Errorf("JSON comes back different (%v)", err)
	}
	var fromJSON, fromYAML any
	if err := json.Unmarshal(j.Bytes(), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(y.Bytes(), &fromYAML); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(fromYAML)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, &fromYAML); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fromJSON, fromYAML); diff != "" {
		t.Errorf("YAML differs from JSON:\n%s", diff)
	}
	if !strings.Contains(y.String(), "\nipv6: \"off\"\n") || !strings.HasPrefix(y.String(), "apiVersion: overlab/v1alpha1\nname: lab\n") {
		t.Errorf("%.300s", &y)
	}
}
