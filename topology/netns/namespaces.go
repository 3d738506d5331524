package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/topology"
)

// underlayName is the name of the namespace that holds the underlay's bridges.
const underlayName = "underlay"

// space is one network namespace of the lab as the supervisor holds it.
type space struct {
	name string
	// node is the node whose files the namespace sees, empty for those of the
	// underlay.
	node string
	set  *netns.Set
	// links is an rtnetlink socket inside.
	links *rtnl.Conn
	// first is the lowest free ifindex when it was made: 2, unless the kernel
	// puts links of its own into every namespace, as the module ipip does
	// (tunl0; net.core.fb_tunnels_only_for_init_net).
	first int
}

// newSpace makes a namespace of the kinds in flags and runs setup inside.
func newSpace(name, node string, flags int, setup func() error) (*space, error) {
	s := &space{name: name, node: node}
	set, err := netns.Create(flags|unix.CLONE_NEWNET|unix.CLONE_NEWUTS, func() error {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
		var err error
		if s.links, err = rtnl.Dial(); err != nil {
			return err
		}
		links, err := s.links.Links()
		if err != nil {
			return err
		}
		for _, l := range links {
			s.first = max(s.first, l.Index+1)
		}
		return setup()
	})
	if err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, hintLimit(err))
	}
	s.set = set
	return s, nil
}

// hintLimit explains the kernel's answer to one namespace too many.
func hintLimit(err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w: the kernel allows no more namespaces (raise user.max_net_namespaces, user.max_mnt_namespaces and user.max_uts_namespaces with sysctl)", err)
	}
	return err
}

// publish links the namespaces under /run/overlab/ns, where every process of
// the lab finds them. A link needs no mount: it leads to the descriptor that
// the supervisor, process 1 of the lab, holds.
func publish(s *space) error {
	for kind, fd := range map[string]int{"net": s.set.Net, "uts": s.set.UTS, "mnt": s.set.Mount} {
		if fd < 0 {
			continue
		}
		if err := os.Symlink(fdPath(fd), nsPath(s.name, kind)); err != nil {
			return fmt.Errorf("publish namespace %s: %w", s.name, err)
		}
	}
	return nil
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/1/fd/%d", fd) }

func nsPath(name, kind string) string { return filepath.Join(nsFolder, name+"."+kind) }

// namePod puts the pod's network namespace where ip-netns(8) and the articles'
// nsenter look for it on the node.
func namePod(pod *topology.Pod, s *space) error {
	for _, link := range []string{
		nodeFolder(pod.Node, "run/netns", pod.Name),
		nodeFolder(pod.Node, "run/docker/netns", pod.SandboxID[:12]),
	} {
		if err := os.Symlink(fdPath(s.set.Net), link); err != nil {
			return fmt.Errorf("name the namespace of pod %s: %w", pod.Name, err)
		}
	}
	return nil
}

// kernel is what a namespace's sysctls are set to.
type kernel struct {
	forward bool
	ipv6    bool
	// bridgeCalls lets iptables see bridged packets, which kubeadm requires
	// of a node.
	bridgeCalls bool
}

// configure sets the sysctls of the calling thread's network namespace. A new
// namespace inherits some from the host: each that matters is written.
func (k kernel) configure() error {
	type setting struct {
		key      string
		value    bool
		optional bool
	}
	settings := []setting{
		{"net/ipv4/ip_forward", k.forward, false},
		{"net/ipv4/conf/all/rp_filter", false, false},
		{"net/ipv4/conf/default/rp_filter", false, false},
		{"net/bridge/bridge-nf-call-iptables", k.bridgeCalls, true},
		{"net/bridge/bridge-nf-call-ip6tables", k.bridgeCalls && k.ipv6, true},
		{"net/ipv6/conf/all/disable_ipv6", !k.ipv6, true},
		{"net/ipv6/conf/default/disable_ipv6", !k.ipv6, true},
		{"net/ipv6/conf/all/forwarding", k.forward && k.ipv6, true},
	}
	for _, s := range settings {
		err := writeSysctl(s.key, s.value)
		if err != nil && !(s.optional && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	if !k.ipv6 {
		return nil
	}
	// Addresses are unique by plan; waiting a second for their proof would be
	// most of the time that a lab takes to come up.
	for _, conf := range []string{"all", "default"} {
		if err := writeSysctl("net/ipv6/conf/"+conf+"/accept_dad", false); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func writeSysctl(key string, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	fd, err := unix.Open("/proc/sys/"+key, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set sysctl %s: %w", key, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", key, value, err)
	}
	return nil
}
