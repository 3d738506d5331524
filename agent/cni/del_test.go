package cni

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
)

// CN-02: DEL succeeds repeatedly, without its namespace, without the record,
// and where no ADD has been; and what there is, it undoes.
func TestDel(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(l *lab, pod *netns.Set, r *Request)
		never bool
	}{
		{name: "in its namespace"},
		{name: "no namespace given", spoil: func(_ *lab, _ *netns.Set, r *Request) { r.Netns = "" }},
		{name: "the namespace's path is gone", spoil: func(_ *lab, _ *netns.Set, r *Request) { r.Netns = "/run/netns/nobody" }},
		{name: "the namespace's path is a stale file", spoil: func(l *lab, _ *netns.Set, r *Request) { r.Netns = l.conf.SubnetFile }},
		{name: "the namespace is gone", spoil: func(l *lab, pod *netns.Set, r *Request) {
			if err := pod.Close(); err != nil {
				l.Fatal(err)
			}
		}},
		{name: "the record is gone", spoil: func(l *lab, _ *netns.Set, r *Request) {
			if err := os.Remove(filepath.Join(l.conf.DataDir, r.ContainerID)); err != nil {
				l.Fatal(err)
			}
		}},
		{name: "the record is damaged", spoil: func(l *lab, _ *netns.Set, r *Request) {
			if err := os.WriteFile(filepath.Join(l.conf.DataDir, r.ContainerID), []byte("{"), 0o600); err != nil {
				l.Fatal(err)
			}
		}},
		{name: "the subnet file is gone", spoil: func(l *lab, _ *netns.Set, _ *Request) { l.conf.SubnetFile = "/run/none" }},
		{name: "the bridge is gone", spoil: func(l *lab, _ *netns.Set, _ *Request) { l.on(l.node, func() error { return delLink("cni0") }) }},
		{name: "nothing was ever added", never: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, nil)
			pod, r := l.newPod("pod-1", "")
			if !tc.never {
				l.mustAdd(r)
			}
			if tc.spoil != nil {
				tc.spoil(l, pod, &r)
			}
			for range 2 {
				if err := l.del(r); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range l.state() {
				if strings.HasPrefix(s, "file") || strings.Contains(s, "veth") {
					t.Errorf("left: %s", s)
				}
			}
		})
	}
}

func TestDelLeavesOthersAlone(t *testing.T) {
	l := newLab(t, nil)
	_, other := l.newPod("other", "")
	l.mustAdd(other)
	before := l.state()
	_, r := l.newPod("pod-1", "")
	l.mustAdd(r)
	r.Netns = ""
	if err := l.del(r); err != nil {
		t.Fatal(err)
	}
	if after := l.state(); !slices.Equal(before, after) {
		t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	if err := l.check(other); err != nil {
		t.Error(err)
	}
}

// K15: flannel's plugin removes a container's record before the delegate has
// done its part, so that after a failure the second DEL is a success that does
// nothing, and veth, address and rules stay. Here a DEL that fails, at
// whichever part, can be repeated until it succeeds, and then nothing is left.
func TestK15DelRepeatsUntilItSucceeds(t *testing.T) {
	for _, tc := range []struct {
		name string
		// spoil makes DEL fail, and returns what lets it succeed.
		spoil func(l *lab, r *Request) (mend func())
	}{
		{"the address cannot be given back", func(l *lab, _ *Request) func() { return l.readOnly("networks") }},
		{"the record cannot be removed", func(l *lab, _ *Request) func() { return l.readOnly("flannel") }},
		{"the masquerading rules cannot be removed", func(l *lab, _ *Request) func() {
			path := os.Getenv("PATH")
			l.Setenv("PATH", "/none") // they need iptables
			return func() { l.Setenv("PATH", path) }
		}},
		{"the namespace is another's", func(l *lab, r *Request) func() {
			path := r.Netns
			r.Netns = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), l.node.Net)
			return func() { r.Netns = path }
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			nstest.Require(t)
			if _, err := exec.LookPath("iptables"); err != nil {
				t.Skip("SKIPPED, NOT TESTED: this machine has no iptables")
			}
			l := newLab(t, map[string]string{"FLANNEL_IPMASQ": "false"}, withPorts(mapping("tcp", 8080, 80, "")))
			for _, dir := range []string{"networks", "flannel"} {
				l.tmpfs(dir)
			}
			_, r := l.newPod("pod-1", "IP=10.244.1.96")
			l.mustAdd(r)
			mend := tc.spoil(l, &r)
			for range 2 {
				if err := l.del(r); err == nil {
					t.Error("DEL succeeded and could not do all its work")
				}
				if _, err := os.Stat(filepath.Join(l.conf.DataDir, "pod-1")); err != nil {
					t.Errorf("the record is gone: %v", err)
				}
			}
			mend()
			for range 2 {
				if err := l.del(r); err != nil {
					t.Error(err)
				}
			}
			for _, s := range l.state() {
				if strings.HasPrefix(s, "file") || strings.Contains(s, "veth") {
					t.Errorf("left: %s", s)
				}
			}
			for _, rule := range l.mapped() {
				if strings.Contains(rule, "pod-1") {
					t.Errorf("left: %s", rule)
				}
			}
		})
	}
}

// tmpfs mounts a file system of its own in one of the lab's folders.
func (l *lab) tmpfs(dir string) {
	l.Helper()
	dir = filepath.Join(l.dir, dir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		l.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			l.Error(err)
		}
	})
}

// readOnly keeps the folder from changing until the result is called.
func (l *lab) readOnly(dir string) (mend func()) {
	remount := func(flag uintptr) {
		l.Helper()
		if err := unix.Mount("", filepath.Join(l.dir, dir), "", unix.MS_REMOUNT|unix.MS_BIND|flag, ""); err != nil {
			l.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	return func() { remount(0) }
}

// Two interfaces of one container share a record, which goes with the last.
func TestTwoInterfaces(t *testing.T) {
	l := newLab(t, nil, func(c *Config) { delete(c.Delegate, "isDefaultGateway"); c.Delegate["isGateway"] = true })
	// Two cluster routes of one destination would be one too many.
	l.conf.SubnetFile = write(t, "FLANNEL_NETWORK=10.244.1.0/24\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n")
	_, eth0 := l.newPod("pod-1", "")
	eth1 := eth0
	eth1.IfName = "eth1"
	l.mustAdd(eth0)
	l.mustAdd(eth1)
	if err := l.del(eth0); err != nil {
		t.Fatal(err)
	}
	if err := l.check(eth1); err != nil {
		t.Errorf("eth1 after the DEL of eth0: %v", err)
	}
	if err := l.del(eth1); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(l.conf.DataDir, "pod-1")); err == nil {
		t.Error("the record is still there")
	}
}

// CN-06: GC frees what is not listed.
func TestGC(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		l := newLab(t, nil, func(c *Config) { c.LegacyRecords = legacy })
		_, stay := l.newPod("stay", "")
		l.mustAdd(stay)
		before := l.state()
		_, gone := l.newPod("gone", "")
		l.mustAdd(gone)
		if err := os.WriteFile(filepath.Join(l.conf.DataDir, "half"), []byte(`{"name":"cbr0"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		l.conf.ValidAttachments = []types.GCAttachment{{ContainerID: "stay", IfName: "eth0"}}
		l.on(l.node, func() error { return GC(context.Background(), l.conf) })
		if after := l.state(); !slices.Equal(before, after) {
			t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
		// Another network's record is not this one's to collect.
		foreign := filepath.Join(l.conf.DataDir, "foreign")
		if err := os.WriteFile(foreign, []byte(`{"name":"other"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		l.on(l.node, func() error { return GC(context.Background(), l.conf) })
		if _, err := os.Stat(foreign); err != nil {
			t.Error(err)
		}
	}
}

func delLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}
