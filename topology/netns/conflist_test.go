package netns

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlab/overlab/topology"
)

// A lab whose plugins are not all there is refused, and each is named.
func TestPluginsThatAreMissing(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"bridge", "host-local"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "portmap"), nil, 0o644); err != nil { // not executable
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, dirs, plugins string
		// bundled is whether overlab-cni is there.
		bundled bool
		says    []string
	}{
		{"all there", dir, "{type: bridge, ipam: {type: host-local}}", false, nil},
		{"the bundled one", "", "{type: overlab-cni, ipam: {type: host-local}}", true, nil},
		{"in the place of flannel's", "", "{type: flannel, delegate: {type: bridge}}", true, nil},
		{"no bundled one", dir, "{type: flannel}", false, []string{"the plugin flannel is missing: overlab-cni is neither beside overlab nor in PATH"}},
		{"an address manager", dir, "{type: bridge, ipam: {type: dhcp}}", true, []string{"the plugin dhcp is missing: it is not in " + dir}},
		{"one that cannot be run", dir, "{type: bridge}, {type: portmap}", true, []string{"the plugin portmap is missing"}},
		{"no folder", "/none/bin", "{type: bridge}", true, []string{"spec.cni.pluginDirs[0]: there is no folder /none/bin", "the plugin bridge is missing"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &Provider{Programs: map[string]string{"overlabd": os.Args[0]}}
			if tc.bundled {
				p.Programs["overlab-cni"] = os.Args[0]
			}
			err := p.Check(context.Background(), planOf(t, "spec:\n  cni: {conflist: {name: n, cniVersion: 1.0.0, plugins: ["+tc.plugins+"]}, pluginDirs: ["+tc.dirs+"]}\n"))
			if len(tc.says) == 0 && err != nil {
				t.Error(err)
			}
			for _, want := range tc.says {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want %q", err, want)
				}
			}
		})
	}
}

// What a plugin said is told as the specification has it, or as it came.
func TestPluginError(t *testing.T) {
	for _, tc := range []struct{ answer, said, want string }{
		{`{"code": 7, "msg": "no", "details": "at all"}`, "", "the plugin x: no; at all"},
		{`{"code": 7, "msg": "no"}`, "muttering", `the plugin x: no; (its log: "muttering")`},
		{"oops", "", `the plugin x: exit code 1; it printed "oops"`},
		{"", "", "the plugin x: exit code 1"},
	} {
		if got := pluginError("x", "exit code 1", []byte(tc.answer), []byte(tc.said)).Error(); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

// TestPluginsWithoutOurs: who asks for the plugins of a lab that came up without
// overlab-cni is told so, and not that each ADD fails.
func TestPluginsWithoutOurs(t *testing.T) {
	lab := &insideLab{outsideLab: outsideLab{plan: new(topology.Plan)}}
	if _, _, err := lab.Plugins("master"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("the error is %v", err)
	}
}
