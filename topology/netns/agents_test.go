package netns

import (
	"slices"
	"strings"
	"testing"
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
