package checks_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
)

// plugged is a lab whose nodes have CNI plugins.
type plugged struct {
	*labtest.Lab
	folder string
}

func (l plugged) Plugins(string) ([]byte, []string, error) {
	return []byte(`{"cniVersion":"1.1.0","name":"cbr0","plugins":[{"type":"overlab-cni","delegate":{"hairpinMode":true,"isDefaultGateway":true}}]}`), []string{l.folder}, nil
}

// pluginFault is a plugin that does something wrong: a shell script around the
// bundled one, which $real is.
type pluginFault struct{ name, check, script, want string }

// onCommand does something else for one command of CNI.
func onCommand(command, script string) string {
	return `if [ "$CNI_COMMAND" = ` + command + ` ]; then ` + script + `; fi; exec $real`
}

// edited changes what ADD prints.
func edited(sed string) string {
	return onCommand("ADD", `out=$($real); code=$?; echo "$out" | sed '`+sed+`'; exit $code`)
}

func pluginFaults() []pluginFault {
	const master = "master, network cbr0"
	return []pluginFault{
		{"one address for all", "IP-01", edited(`s/"192\.0\.2\.[0-9]*\/24"/"192.0.2.77\/24"/`), "master, network overlab-check: expected an address for each container, seen 192.0.2.77 for both"},
		{"an error that says nothing", "IP-02", onCommand("ADD", `out=$($real) || { echo "{\"code\":999,\"msg\":\"no\"}"; exit 1; }; echo "$out"; exit 0`), "master, network overlab-check: expected an error that says that there are no addresses, seen "},
		{"DEL does nothing", "IP-03", onCommand("DEL", "exit 0"), "expected nothing on disk after DEL, seen /var/lib/cni/"},
		{"the gateway's address", "IP-04", edited(`s/192\.0\.2\.10\//192.0.2.9\//`), "expected the gateway address 192.0.2.9 for no container, seen ADD gave it"},
		{"another address than the kernel's", "CN-01", edited(`s/10\.244\.0\.\([0-9]*\)\/24/10.244.9.\1\/24/`), "container eth0: expected address 10.244.9."},
		{"the address of a pod", "CN-01", edited(`s/10\.244\.0\.[0-9]*\/24/10.244.0.2\/24/`), master + ": expected an address that no pod has, seen 10.244.0.2, of master-pod-1"},
		{"DEL needs the namespace", "CN-02", onCommand("DEL", `[ -n "$CNI_NETNS" ] || { echo "{\"code\":4,\"msg\":\"no namespace\"}"; exit 1; }`), master + ", DEL without the namespace: expected success, seen "},
		{"a failed ADD leaves a file", "CN-03", onCommand("ADD", `$real; code=$?; [ $code = 0 ] || touch /var/lib/cni/left; exit $code`), "expected the node's links, routes and files of before, seen it has file /var/lib/cni/left"},
		{"CHECK sees nothing", "CN-04", onCommand("CHECK", "exit 0"), master + ", CHECK of a container without its default route: expected an error, seen success"},
		{"always ready", "CN-05", onCommand("STATUS", "exit 0"), "STATUS without a subnet file: expected an error of code 50 or 51, seen code 0"},
		{"GC and the DELs that go with it do nothing", "CN-06", `case "$CNI_COMMAND" in GC|DEL) exit 0;; esac; exec $real`, "after GC: expected 192.0.2.11/29 free, seen it is reserved for a container that is not listed"},
	}
}

// TestPluginFaults: each check of plugins passes on the bundled one, leaves the
// node as it was, and finds what a wrong one does.
func TestPluginFaults(t *testing.T) {
	real := buildPlugin(t)
	for _, f := range pluginFaults() {
		t.Run(f.check+" "+f.name, func(t *testing.T) {
			t.Parallel()
			lab := plugged{labtest.Up(t, labtest.Plan(1, 1, 1500)), t.TempDir()}
			// What plugins keep is the node's own.
			lab.Exec(t, "master", "mount", "-t", "tmpfs", "tmpfs", "/var/lib")
			lab.Exec(t, "master", "mkdir", "-p", "/var/lib/cni/networks/cbr0")
			lab.Exec(t, "master", "sh", "-c", "printf 'pod\r\neth0' > /var/lib/cni/networks/cbr0/10.244.0.2")
			plugin := func(script string) {
				t.Helper()
				text := "#!/bin/sh\nreal=" + real + "\n" + script + "\n"
				if err := os.WriteFile(filepath.Join(lab.folder, "overlab-cni"), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			plugin("exec $real")
			if res := run(t, lab, suite.Options{}, f.check).Results[0]; res.Verdict != suite.Pass {
				t.Fatalf("the bundled plugin: %s", text(res))
			} else {
				t.Log(res.Evidence)
			}
			plugin(f.script)
			res := run(t, lab, suite.Options{}, f.check).Results[0]
			if got := text(res); res.Verdict != suite.Fail || !strings.Contains(got, f.want) {
				t.Errorf("the findings do not say %q:\n%s", f.want, got)
			}
		})
	}
}

// buildPlugin builds the bundled plugin where every user may run it.
func buildPlugin(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "overlab-cni")
	cmd := exec.Command("go", "build", "-o", path, "../../cmd/overlab-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: the plugin cannot be built here: %v\n%s", err, out)
	}
	return path
}

// TestNoPlugins: a lab that does not say what its plugins are is not judged by
// them.
func TestNoPlugins(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	if res := run(t, lab, suite.Options{}, "CN-01").Results[0]; res.Verdict != suite.NotApplicable {
		t.Error(text(res))
	}
}
