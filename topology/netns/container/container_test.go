package container

import (
	"context"
	"slices"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/introspection"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/genproto/googleapis/rpc/status"
)

// plugins stands in for a containerd with these snapshotters, some of which
// say why they do not work.
type plugins struct {
	introspection.Service
	found []*api.Plugin
}

func (p plugins) Plugins(context.Context, ...string) (*api.PluginsResponse, error) {
	return &api.PluginsResponse{Plugins: p.found}, nil
}

func TestSnapshotterIsTheBestThatWorks(t *testing.T) {
	works := func(name string) *api.Plugin { return &api.Plugin{ID: name} }
	fails := func(name string) *api.Plugin {
		return &api.Plugin{ID: name, InitErr: &status.Status{Message: "not on this kernel"}}
	}
	for _, c := range []struct {
		name  string
		found []*api.Plugin
		want  string
	}{
		{"both", []*api.Plugin{works("btrfs"), works("native"), works("overlayfs")}, "overlayfs"},
		{"no overlay", []*api.Plugin{fails("overlayfs"), works("native")}, "native"},
	} {
		if got, err := chooseSnapshotter(t.Context(), plugins{found: c.found}); got != c.want || err != nil {
			t.Errorf("%s: %s, %v; want %s", c.name, got, err, c.want)
		}
	}
	_, err := chooseSnapshotter(t.Context(), plugins{found: []*api.Plugin{fails("overlayfs"), fails("native")}})
	if err == nil || !strings.Contains(err.Error(), "overlayfs: not on this kernel; native: not on this kernel") {
		t.Errorf("none: %v", err)
	}
}

func TestExitOfAProgram(t *testing.T) {
	for code, want := range map[uint32]string{
		0: "exit code 0", 3: "exit code 3", 127: "exit code 127", 128: "exit code 128", 255: "exit code 255",
		137: "killed by signal 9 (SIGKILL)", 143: "killed by signal 15 (SIGTERM)",
	} {
		if got := describeExit(code); got != want {
			t.Errorf("code %d: %s, want %s", code, got, want)
		}
	}
}

// A pod's container joins the pod's namespaces, makes no control group, and
// asks for no capability that this process has not.
func TestSpecOfAPod(t *testing.T) {
	ctx := namespaces.WithNamespace(t.Context(), namespace)
	pod := Pod{
		Name: "p", ID: "x", Net: "/ns/net", UTS: "/ns/uts", Command: []string{"sh", "-c", "true"},
		Env: []string{"HOSTNAME=p"}, Files: map[string]string{"/etc/hosts": "/lab/hosts", "/etc/hostname": "/lab/hostname"},
	}
	s, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "x"}, pod.spec)
	if err != nil {
		t.Fatal(err)
	}
	paths := map[specs.LinuxNamespaceType]string{}
	for _, n := range s.Linux.Namespaces {
		paths[n.Type] = n.Path
	}
	if _, has := paths[specs.CgroupNamespace]; has || paths[specs.NetworkNamespace] != pod.Net || paths[specs.UTSNamespace] != pod.UTS || paths[specs.PIDNamespace] != "" {
		t.Errorf("namespaces %v", paths)
	}
	if s.Linux.CgroupsPath != "" || s.Linux.Resources != nil || s.Process.NoNewPrivileges {
		t.Errorf("control group %q, resources %v, no new privileges: %t", s.Linux.CgroupsPath, s.Linux.Resources, s.Process.NoNewPrivileges)
	}
	if !slices.Equal(s.Process.Args, pod.Command) || !slices.Contains(s.Process.Env, "HOSTNAME=p") {
		t.Errorf("runs %q with %q", s.Process.Args, s.Process.Env)
	}
	for i, to := range []string{"/etc/hostname", "/etc/hosts"} {
		if m := s.Mounts[len(s.Mounts)-2+i]; m.Destination != to || m.Source != pod.Files[to] {
			t.Errorf("mount %+v, want %s", m, to)
		}
	}
	if slices.Contains(s.Process.Capabilities.Bounding, "CAP_NET_ADMIN") {
		t.Error("a pod may program its network")
	}
	pod.Command = nil
	if _, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "x"}, oci.WithProcessArgs(), pod.spec); err == nil || !strings.Contains(err.Error(), "names no program") {
		t.Errorf("without a program: %v", err)
	}
}

func TestCapabilitiesAreNoMoreThanOurs(t *testing.T) {
	c := &specs.LinuxCapabilities{Bounding: []string{"CAP_NONE_SUCH", "CAP_NET_RAW"}, Effective: []string{"CAP_NONE_SUCH"}}
	if err := limitCapabilities(c); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(c.Bounding, "CAP_NONE_SUCH") || len(c.Effective) > 0 {
		t.Errorf("%+v", c)
	}
}
