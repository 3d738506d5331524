package netns

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

func TestKernelMakesEveryKind(t *testing.T) {
	labFolders(t)
	if err := probeKinds(linkKinds("vxlan")); err != nil {
		t.Error(err)
	}
}

// A lab on a kernel that lacks a kind of link says so before it builds.
func TestKernelWithoutAKind(t *testing.T) {
	labFolders(t)
	err := probeKinds(append(linkKinds("vxlan"), linkKind{"nosuchkind", "CONFIG_NOSUCHKIND", func(*rtnl.Conn) error {
		return netlink.LinkAdd(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "nosuch"}, LinkType: "nosuchkind"})
	}}))
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatalf("probe of a kind that no kernel has: %v", err)
	}
	for _, w := range []string{unix.ByteSliceToString(uts.Release[:]), "nosuchkind", "sudo modprobe nosuchkind", "CONFIG_NOSUCHKIND"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestHintLimit(t *testing.T) {
	err := hintLimit(fmt.Errorf("unshare: %w", unix.ENOSPC))
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "user.max_net_namespaces") {
		t.Errorf("one namespace too many: %v", err)
	}
	if err := hintLimit(unix.EPERM); err != unix.EPERM {
		t.Errorf("another error is changed: %v", err)
	}
}
