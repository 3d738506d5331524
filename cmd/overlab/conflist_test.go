package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// standardPlugins builds the CNI project's own plugins, which go.mod has as
// tools, and returns their folder.
func standardPlugins(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const module = "github.com/containernetworking/plugins/plugins/"
	cmd := exec.Command("go", "build", "-o", dir+"/", module+"main/bridge", module+"ipam/host-local", module+"meta/portmap")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: the standard CNI plugins cannot be built (`go mod download` fetches them): %v\n%s", err, out)
	}
	return dir
}

// cniLab writes a lab file, with the folder of plugins for PLUGINS.
func cniLab(t *testing.T, spec, plugins string) string {
	t.Helper()
	return labFile(t, "spec:\n"+strings.ReplaceAll(spec, "PLUGINS", plugins))
}

// A lab's pods are wired alike by the bundled plugin as a library, by the same
// as an executable, by it in the place of flannel's in flannel's manifest, and
// by the standard plugins; and a port of the node leads to its pod from
// everywhere, the pod itself included (NM-07).
//
//	master          node-1                            node-2
//	172.16.1.1      172.16.1.2:8080 -> web:80         172.16.1.3
//	   |             |     web   neighbour             |     far
//	   +-------------+-----------------------lan-------+
func TestPortsOfPodsByEveryPlugin(t *testing.T) {
	const pods = `  pods:
  - {name: web, node: node-1, ports: [{hostPort: 8080, containerPort: 80}]}
  - {name: neighbour, node: node-1}
  - {name: far, node: node-2}
`
	const portmap = `{"type": "portmap", "capabilities": {"portMappings": true}}`
	for _, tc := range []struct {
		name, cni string
		// standard is whether the list names standard plugins.
		standard bool
	}{
		{name: "the library"},
		{name: "overlab-cni", cni: `  cni:
    conflist:
      {"name": "cbr0", "cniVersion": "1.1.0", "plugins": [
        {"type": "overlab-cni", "capabilities": {"ips": true, "mac": true, "portMappings": true},
         "delegate": {"hairpinMode": true, "isDefaultGateway": true}}]}
`},
		{name: "flannel's manifest", standard: true, cni: `  cni:
    pluginDirs: [PLUGINS]
    conflist:
      {"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}}, ` + portmap + `]}
`},
		{name: "the standard plugins", standard: true, cni: `  cni:
    pluginDirs: [PLUGINS]
    conflist:
      {"name": "mynet", "cniVersion": "1.0.0", "plugins": [
        {"type": "bridge", "bridge": "cni0", "mtu": "{{.MTU}}", "isDefaultGateway": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "subnet": "{{.PodCIDR}}", "routes": [{"dst": "{{.Network}}"}]}}, ` + portmap + `]}
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			needLabs(t)
			need(t, "bash")
			plugins := ""
			if tc.standard {
				need(t, "iptables") // portmap's
				plugins = standardPlugins(t)
			}
			o := labUp(t, cniLab(t, pods+tc.cni, plugins))
			o.allPass(t)
			contains(t, o.must(t, "test", "-o", "json", "NM-07"), "1 port, asked 4 times and answered 4; by the pod itself: 1")
			if tc.cni != "" {
				contains(t, o.must(t, "exec", "node-1", "--", "sh", "-c", "cat /etc/cni/net.d/10-*.conflist"), `"plugins"`)
				contains(t, o.must(t, "exec", "node-1", "--", "ls", "/var/lib/cni/results"), "-eth0")
			}
			o.serveIn(t, "web", "80")
			for _, from := range []struct{ name, address, seen string }{
				{"master", "172.16.1.2", "172.16.1.1"},
				{"node-2", "172.16.1.2", "172.16.1.3"},
				{"node-1", "172.16.1.2", ""},
				{"node-1", "127.0.0.1", ""},
				{"neighbour", "172.16.1.2", ""},
				{"web", "172.16.1.2", ""},
				// A pod is behind its node's address for what is outside the overlay.
				{"far", "172.16.1.2", "172.16.1.3"},
			} {
				said := o.must(t, "exec", from.name, "--", "bash", "-c", "cat < /dev/tcp/"+from.address+"/8080")
				if !strings.HasPrefix(said, "seen as "+from.seen) {
					t.Errorf("from %s to %s:8080: %q, want to be seen as %s", from.name, from.address, said, from.seen)
				}
			}
		})
	}
}

// serveIn runs a server in a pod until the lab's end.
func (o *overlab) serveIn(t *testing.T, pod, port string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := o.command("exec", pod, "--", "env", helperName+"="+helperServe, self, port)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the server in %s says %q (%v)", pod, line, err)
	}
}

// What is wrong with plugins is told by their names: before anything is built
// where that can be known, and else with what the plugin said.
func TestPluginsThatFail(t *testing.T) {
	needLabs(t)
	dir := t.TempDir()
	for name, script := range map[string]string{
		// The specification's error, on standard output.
		"refuses": `test $CNI_COMMAND = ADD || exit 0; echo '{"cniVersion": "1.0.0", "code": 107, "msg": "out of luck", "details": "it is Friday"}'; echo muttering >&2; exit 1`,
		"crashes": `kill -9 $$`,
		"strays":  `test $CNI_COMMAND = ADD || exit 0; echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.244.9.9/24"}]}'`,
		"sticks":  `test $CNI_COMMAND = ADD || { echo '{"code": 11, "msg": "not today"}'; exit 1; }; exit 1`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	list := func(plugins string) string {
		return "  pods: [{name: web, node: node-1}]\n  cni:\n    pluginDirs: [PLUGINS]\n    conflist: {name: n, cniVersion: 1.0.0, plugins: [" + plugins + "]}\n"
	}
	for _, tc := range []struct {
		name, spec string
		says       []string
	}{
		{"missing", list("{type: bandwidth}, {type: macvlan, ipam: {type: dhcp}}"), []string{
			"spec.cni.conflist: the plugin bandwidth is missing: it is not in " + dir, "the plugin macvlan is missing", "the plugin dhcp is missing"}},
		{"no folders", strings.Replace(list("{type: bridge}"), "    pluginDirs: [PLUGINS]\n", "", 1), []string{
			"the plugin bridge is missing: spec.cni.pluginDirs names no folder"}},
		{"no such folder", strings.Replace(list("{type: overlab-cni}"), "PLUGINS", "/none/bin", 1), []string{
			"spec.cni.pluginDirs[0]: there is no folder /none/bin"}},
		{"an error", list("{type: refuses}"), []string{
			"wire the pods of node node-1: ADD of pod web to the CNI network n:", "the plugin refuses: out of luck; it is Friday", "muttering"}},
		{"a crash", list("{type: crashes}"), []string{"the plugin crashes: killed by signal 9 (SIGKILL)"}},
		{"another address than the plan's", list("{type: strays}"), []string{"the plan says 10.244.1.2", "10.244.9.9"}},
		{"no way back", list("{type: sticks}"), []string{"the plugin sticks: exit code 1", "and its DEL failed:", "the plugin sticks: not today"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := newOverlab(t)
			r := o.run(t, "up", cniLab(t, tc.spec, dir))
			if r.code != 2 {
				t.Errorf("%s", r)
			}
			contains(t, r.err, tc.says...)
		})
	}
}
