package netns

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/overlab/overlab/topology"
)

func TestAgentCommand(t *testing.T) {
	generated := func(more ...string) []string {
		return append([]string{
			"--etcd-endpoints=http://172.16.1.1:2379", "--etcd-prefix=/coreos.com/network",
			"--ip-masq=true", "--healthz-ip=127.0.0.1", "--healthz-port=8471",
		}, more...)
	}
	for _, c := range []struct {
		name, spec string
		want       []string
	}{
		{"bundled", "spec: {nodes: [{name: m}]}\n", append([]string{"/bin/overlabd"}, generated("--iface=eth0")...)},
		{"interface by address", "spec: {nodes: [{name: m}], agent: {iface: 172.16.1.1}}\n",
			append([]string{"/bin/overlabd"}, generated("--iface=172.16.1.1")...)},
		{"expression", "spec: {nodes: [{name: m}], agent: {ifaceRegex: 'eth.*'}}\n",
			append([]string{"/bin/overlabd"}, generated("--iface-regex=eth.*")...)},
		{"public address", "spec: {nodes: [{name: m}], agent: {publicIP: 172.16.1.1}}\n",
			append([]string{"/bin/overlabd"}, generated("--public-ip=172.16.1.1")...)},
		{"foreign, with arguments of its own last", "spec: {nodes: [{name: m}], agent: {command: [/opt/flanneld, -v=2], args: [--healthz-port=1]}}\n",
			append([]string{"/opt/flanneld", "-v=2"}, generated("--iface=eth0", "--healthz-port=1")...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := planOf(t, c.spec)
			if got := agentCommand(p, &p.Nodes[0], "/bin/overlabd"); !slices.Equal(got, c.want) {
				t.Errorf("got  %s\nwant %s", strings.Join(got, " "), strings.Join(c.want, " "))
			}
		})
	}
}

// One template makes the arguments of every agent, bundled or not, and each of
// them is a flag of flanneld's (main.go).
func TestArgumentsAreFlannelds(t *testing.T) {
	flannelds := []string{
		"etcd-endpoints", "etcd-prefix", "etcd-keyfile", "etcd-certfile", "etcd-cafile", "etcd-username", "etcd-password",
		"iface", "iface-regex", "iface-can-reach", "subnet-file", "public-ip", "public-ipv6", "subnet-lease-renew-margin",
		"ip-masq", "ip-masq-fully-random-disable", "kube-subnet-mgr", "kube-api-url", "kube-annotation-prefix", "kubeconfig-file",
		"version", "healthz-ip", "healthz-port", "iptables-resync", "iptables-forward-rules", "ip-blackhole-route",
		"net-config-path", "set-node-network-unavailable", "v", "vmodule",
	}
	const agent = "iface: 172.16.1.1, ifaceRegex: eth.*, publicIP: 172.16.1.1, ipMasq: false"
	bundled := planOf(t, "spec: {nodes: [{name: m}], agent: {"+agent+"}}\n")
	foreign := planOf(t, "spec: {nodes: [{name: m}], agent: {command: [/opt/flanneld], "+agent+"}}\n")
	args := agentCommand(bundled, &bundled.Nodes[0], "/bin/overlabd")[1:]
	if got := agentCommand(foreign, &foreign.Nodes[0], "/bin/overlabd")[1:]; !slices.Equal(got, args) {
		t.Errorf("flanneld gets %q, overlabd %q", got, args)
	}
	for _, a := range args {
		name, _, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		if !slices.Contains(flannelds, name) {
			t.Errorf("flanneld has no %s", a)
		}
	}
	if len(args) != 8 {
		t.Errorf("%d arguments are judged, not every one that there can be: %q", len(args), args)
	}
}

func TestRestarts(t *testing.T) {
	const regular, failed, killed = syscall.WaitStatus(0), syscall.WaitStatus(1 << 8), syscall.WaitStatus(9)
	for policy, want := range map[topology.RestartPolicy][3]bool{
		topology.RestartAlways:    {true, true, true},
		topology.RestartOnFailure: {false, true, true},
		topology.RestartNever:     {false, false, false},
	} {
		got := [3]bool{restarts(policy, regular), restarts(policy, failed), restarts(policy, killed)}
		if got != want {
			t.Errorf("%s: %v, not %v", policy, got, want)
		}
	}
}

func TestLastLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, tt := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"\n\n", nil},
		{"one\ntwo", []string{"one", "two"}},
		{"1\n2\n3\n4\n5\n6\n7\n", []string{"3", "4", "5", "6", "7"}},
		{strings.Repeat("x", 2*shownBytes) + "\nlast\n", []string{"last"}},
		{strings.Repeat("y", shownBytes-1) + "\n" + strings.Repeat("x", shownBytes-10) + "\nlast\n", []string{strings.Repeat("x", shownBytes-10), "last"}},
	} {
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastLines(path); !slices.Equal(got, tt.want) {
			t.Errorf("%.20q: %.60q, not %.60q", tt.text, got, tt.want)
		}
	}
	if got := lastLines(path + ".none"); got != nil {
		t.Errorf("of no file: %q", got)
	}
}
