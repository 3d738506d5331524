package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// lab is a node without an underlay, on which pods are wired.
//
//	          node
//	   +---- cni0 ----+  10.244.1.1/24
//	   |              |
//	veth...         veth...
//	   |              |
//	 eth0           eth0
//	 pod            pod
type lab struct {
	testing.TB
	node *netns.Set
	dir  string
	conf *Config
}

// newLab makes a node; env replaces lines of its subnet.env, and conf adds to
// the stock configuration.
func newLab(t testing.TB, env map[string]string, change ...func(*Config)) *lab {
	t.Helper()
	l := &lab{TB: t, node: nstest.New(t), conf: parse(t, stock)}
	// In memory, as a lab's own /var/lib is: creating a file on a disk takes
	// as long as creating a link.
	var err error
	if l.dir, err = os.MkdirTemp("/run", "cni"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(l.dir) })
	values := map[string]string{
		"FLANNEL_NETWORK": "10.244.0.0/16",
		"FLANNEL_SUBNET":  "10.244.1.1/24",
		"FLANNEL_MTU":     "1400",
		"FLANNEL_IPMASQ":  "true",
	}
	for k, v := range env {
		values[k] = v
	}
	var b strings.Builder
	for k, v := range values {
		fmt.Fprintf(&b, "%s=%s\n", k, v)
	}
	l.conf.SubnetFile = write(t, b.String())
	l.conf.DataDir = filepath.Join(l.dir, "flannel")
	l.conf.IPAM = map[string]any{"dataDir": filepath.Join(l.dir, "networks")}
	for _, c := range change {
		c(l.conf)
	}
	return l
}

func (l *lab) reservations() string { return filepath.Join(l.dir, "networks", "cbr0") }

// newPod makes an empty namespace, with even the loopback link down, and the
// request to wire it.
func (l *lab) newPod(id string, args string) (*netns.Set, Request) {
	l.Helper()
	ns, err := netns.Create(unix.CLONE_NEWNET, func() error { return nil })
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = ns.Close() })
	return ns, Request{
		ContainerID: id,
		Netns:       fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Net),
		IfName:      "eth0",
		Args:        args,
		Config:      l.conf,
	}
}

// on runs fn in a namespace and fails the test on error.
func (l *lab) on(ns *netns.Set, fn func() error) {
	l.Helper()
	if err := ns.Do(fn); err != nil {
		l.Fatal(err)
	}
}

func (l *lab) add(r Request) (res *types100.Result, err error) {
	err = l.node.Do(func() error {
		res, err = Add(context.Background(), r)
		return err
	})
	return res, err
}

func (l *lab) mustAdd(r Request) *types100.Result {
	l.Helper()
	res, err := l.add(r)
	if err != nil {
		l.Fatal(err)
	}
	return res
}

func (l *lab) del(r Request) error {
	return l.node.Do(func() error { return Del(context.Background(), r) })
}

func (l *lab) check(r Request) error {
	return l.node.Do(func() error { return Check(context.Background(), r) })
}

// state is all that an ADD can leave: the node's links and addresses, and the
// files with their modes and contents. host-local's lock and its note of the
// last address stay by design.
func (l *lab) state() []string {
	l.Helper()
	var s []string
	l.on(l.node, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			a := link.Attrs()
			addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			s = append(s, fmt.Sprint("link ", a.Name, " mtu ", a.MTU, " ", a.HardwareAddr, " ", addrs))
		}
		return nil
	})
	err := filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "lock" || strings.HasPrefix(d.Name(), "last_reserved_ip") {
			return err
		}
		b, err := os.ReadFile(path)
		s = append(s, fmt.Sprintf("file %s %q", path, b))
		return err
	})
	if err != nil {
		l.Fatal(err)
	}
	slices.Sort(s)
	return s
}

// wantError checks an error's code and text.
func (l *lab) wantError(err error, code uint, text string) {
	l.Helper()
	var e *types.Error
	switch {
	case err == nil:
		l.Errorf("no error, want one that says %q", text)
	case !errors.As(err, &e):
		l.Errorf("error %v is no *types.Error", err)
	case e.Code != code || !strings.Contains(e.Error(), text):
		l.Errorf("error %d: %v, want code %d and %q", e.Code, e, code, text)
	}
}
