package labtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/internal/tuntap/tuntest"
	"github.com/overlab/overlab/topology"
)

// Lab is a running plan. It implements topology.Lab.
type Lab struct {
	plan     *topology.Plan
	underlay *netns.Set
	spaces   map[string]*Namespace
	closers  []func() error
}

// Namespace is one node or pod. It implements topology.Namespace and
// topology.Local.
type Namespace struct {
	*netns.Set
	name string
}

// Up builds the plan. The lab ends with the test, or, where tb is nil, when
// Close is called; the error is nil or tb is.
func Up(tb testing.TB, p *topology.Plan) *Lab {
	tb.Helper()
	nstest.Require(tb)
	if p.Network.Backend.Type == "wireguard" {
		tuntest.Require(tb)
	}
	l, err := Build(p)
	if err != nil {
		tb.Fatal("build lab:", err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error("close lab:", err)
		}
	})
	return l
}

// Build builds the plan for as long as until Close.
func Build(p *topology.Plan) (*Lab, error) {
	l := &Lab{plan: p, spaces: map[string]*Namespace{}}
	if err := l.build(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Interface indexes, chosen so that one batch can name links that it makes, and
// above those that a kernel gives to links of its own, such as tunl0.
const (
	loIndex     = 1
	uplinkIndex = 20
	vtepIndex   = 21
	bridgeIndex = 22
	podIndex    = 23
	firstPort   = 30
)

func (l *Lab) build() error {
	var err error
	if l.underlay, err = create(unix.CLONE_NEWNET); err != nil {
		return err
	}
	for _, n := range l.plan.Nodes {
		if err := l.space(n.Name, unix.CLONE_NEWNET|unix.CLONE_NEWNS); err != nil {
			return err
		}
	}
	for _, p := range l.plan.Pods {
		if err := l.space(p.Name, unix.CLONE_NEWNET); err != nil {
			return err
		}
	}
	if err := batch(l.underlay, l.wireUnderlay); err != nil {
		return fmt.Errorf("underlay: %w", err)
	}
	for i := range l.plan.Nodes {
		n := &l.plan.Nodes[i]
		if err := batch(l.spaces[n.Name].Set, func(b *rtnl.Batch) { l.wireNode(b, n) }); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
		if err := l.spaces[n.Name].Do(func() error { return writeSubnetEnv(l.plan, n) }); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	if l.plan.Network.Backend.Type == "wireguard" {
		if err := l.wireWireGuard(); err != nil {
			return err
		}
	}
	for i := range l.plan.Pods {
		p := &l.plan.Pods[i]
		if err := batch(l.spaces[p.Name].Set, func(b *rtnl.Batch) { l.wirePod(b, p) }); err != nil {
			return fmt.Errorf("pod %s: %w", p.Name, err)
		}
	}
	for _, n := range l.plan.Nodes {
		if err := forwarding(l.spaces[n.Name].Set); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return forwarding(l.underlay)
}

// forwarding waits until every veth of a namespace is operational: the kernel
// tells a bridge asynchronously that a port has a carrier, and until then it
// forwards nothing through it.
func forwarding(set *netns.Set) error {
	return set.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		for deadline := time.Now().Add(10 * time.Second); ; {
			links, err := h.LinkList()
			if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
				return err
			}
			waiting := slices.IndexFunc(links, func(l netlink.Link) bool {
				return l.Type() == "veth" && l.Attrs().OperState != netlink.OperUp
			})
			switch {
			case waiting < 0:
				return nil
			case time.Now().After(deadline):
				return fmt.Errorf("%s does not come up", links[waiting].Attrs().Name)
			}
		}
	})
}

func (l *Lab) space(name string, flags int) error {
	set, err := create(flags)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	l.spaces[name] = &Namespace{Set: set, name: name}
	return nil
}

func create(flags int) (*netns.Set, error) {
	return netns.Create(flags, func() error {
		for path, value := range map[string]string{
			"/proc/sys/net/ipv4/ip_forward":                "1",
			"/proc/sys/net/bridge/bridge-nf-call-iptables": "0",
			"/proc/sys/net/ipv6/conf/default/disable_ipv6": "1",
			"/proc/sys/net/ipv6/conf/all/disable_ipv6":     "1",
		} {
			if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		if flags&unix.CLONE_NEWNS == 0 {
			return nil
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount /run: %w", err)
		}
		return nil
	})
}

func batch(set *netns.Set, fill func(*rtnl.Batch)) error {
	return set.Do(func() error {
		c, err := rtnl.Dial()
		if err != nil {
			return err
		}
		var b rtnl.Batch
		b.SetLink(rtnl.Link{Index: loIndex, Up: true})
		fill(&b)
		return errors.Join(c.Do(&b), c.Close())
	})
}

func (l *Lab) wireUnderlay(b *rtnl.Batch) {
	const lan = 20
	seg := l.plan.Segments[0]
	b.AddBridge(rtnl.Link{Name: seg.Bridge, Index: lan, MTU: seg.MTU, Up: true})
	for i, n := range l.plan.Nodes {
		up := n.Underlay()
		b.AddVeth(
			rtnl.Link{Name: up.Port, Index: firstPort + i, MTU: up.MTU, Master: lan, Up: true},
			rtnl.Link{Name: up.Name, Index: uplinkIndex, MTU: up.MTU, MAC: up.MAC.HardwareAddr(), NetNS: l.spaces[n.Name].Net},
		)
	}
}

func (l *Lab) wireNode(b *rtnl.Batch, n *topology.Node) {
	up, mtu := n.Underlay(), l.plan.OverlayMTU(n)
	b.SetLink(rtnl.Link{Index: uplinkIndex, Up: true})
	b.AddAddr(uplinkIndex, up.Address)
	for _, peer := range l.plan.Nodes {
		if peer.Name != n.Name {
			// Dynamic entries count against a limit of the whole kernel.
			b.AddNeigh(rtnl.Neigh{Dev: uplinkIndex, IP: peer.PublicIP(), MAC: peer.Underlay().MAC.HardwareAddr()})
		}
	}
	if pods := l.plan.PodsOn(n.Name); len(pods) > 0 {
		b.AddBridge(rtnl.Link{Name: "cni0", Index: bridgeIndex, MTU: mtu, MAC: n.BridgeMAC.HardwareAddr(), Up: true})
		b.AddAddr(bridgeIndex, n.Gateway())
		for j, p := range pods {
			b.AddVeth(
				rtnl.Link{Name: p.HostInterface, Index: firstPort + j, MTU: mtu, Master: bridgeIndex, Up: true},
				rtnl.Link{Name: "eth0", Index: podIndex, MTU: mtu, MAC: p.MAC.HardwareAddr(), NetNS: l.spaces[p.Name].Net},
			)
		}
	}
	l.wireOverlay(b, n, l.vxlan(n))
}

func (l *Lab) wireOverlay(b *rtnl.Batch, n *topology.Node, v rtnl.Vxlan) {
	backend := l.plan.Network.Backend
	switch backend.Type {
	case "host-gw":
		l.wireBareRoutes(b, n)
		return
	case "alloc", "wireguard": // of which wireWireGuard makes the device
		return
	}
	b.AddVxlan(rtnl.Link{
		Name: l.vtep(), Index: vtepIndex,
		MAC: n.VtepMAC.HardwareAddr(), MTU: l.plan.OverlayMTU(n), Up: true,
	}, v)
	b.AddAddr(vtepIndex, netip.PrefixFrom(n.PodCIDR.Addr(), 32))
	if backend.DirectRouting { // there is one segment
		l.wireBareRoutes(b, n)
		return
	}
	for i := range l.plan.Nodes {
		peer := &l.plan.Nodes[i]
		if peer.Name == n.Name {
			continue
		}
		via := peer.PodCIDR.Addr()
		b.AddNeigh(rtnl.Neigh{Dev: vtepIndex, IP: via, MAC: peer.VtepMAC.HardwareAddr()})
		b.AddFDB(rtnl.FDB{Dev: vtepIndex, MAC: peer.VtepMAC.HardwareAddr(), Dst: peer.PublicIP()})
		b.AddRoute(rtnl.Route{Dst: peer.PodCIDR, Via: via, Dev: vtepIndex, Onlink: true})
	}
}

// wireBareRoutes leads to each peer's pods by the peer's own address.
func (l *Lab) wireBareRoutes(b *rtnl.Batch, n *topology.Node) {
	for i := range l.plan.Nodes {
		if peer := &l.plan.Nodes[i]; peer.Name != n.Name {
			b.AddRoute(rtnl.Route{Dst: peer.PodCIDR, Via: peer.PublicIP(), Dev: uplinkIndex})
		}
	}
}

// Rewire makes a node's VXLAN device and mesh entries anew, whatever was done
// to them; change, where given, alters the device first.
func (l *Lab) Rewire(tb testing.TB, node string, change ...func(*rtnl.Vxlan)) {
	tb.Helper()
	n := l.plan.Node(node)
	v := l.vxlan(n)
	for _, c := range change {
		c(&v)
	}
	space := l.spaces[node].Set
	index := vtepIndex
	err := space.Do(func() error {
		c, err := rtnl.Dial()
		if err != nil {
			return err
		}
		// One that a fault has made anew has an index of the kernel's choice.
		if have, err := c.LinkByName(l.vtep()); err == nil {
			index = have.Index
		}
		return c.Close()
	})
	if err == nil {
		err = batch(space, func(b *rtnl.Batch) {
			b.DelLink(index)
			b.Tolerate(unix.ENODEV)
			l.wireOverlay(b, n, v)
		})
	}
	if err != nil {
		tb.Fatalf("rewire %s: %v", node, err)
	}
}

// vtep is the name of every node's VXLAN device.
func (l *Lab) vtep() string { return fmt.Sprintf("flannel.%d", l.plan.Network.Backend.VNI) }

func (l *Lab) vxlan(n *topology.Node) rtnl.Vxlan {
	b := l.plan.Network.Backend
	return rtnl.Vxlan{VNI: b.VNI, Port: b.Port, Local: n.PublicIP(), Dev: uplinkIndex, Learning: b.Learning, ZeroChecksum: true}
}

func (l *Lab) wirePod(b *rtnl.Batch, p *topology.Pod) {
	gateway := l.plan.Node(p.Node).Gateway().Addr()
	b.SetLink(rtnl.Link{Index: podIndex, Up: true})
	b.AddAddr(podIndex, p.Address)
	b.AddRoute(rtnl.Route{Via: gateway, Dev: podIndex})
	b.AddRoute(rtnl.Route{Dst: l.plan.Network.Network, Via: gateway, Dev: podIndex})
}

func writeSubnetEnv(p *topology.Plan, n *topology.Node) error {
	if err := os.MkdirAll("/run/flannel", 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=%d\nFLANNEL_IPMASQ=%v\n",
		p.Network.Network, n.Gateway(), p.OverlayMTU(n), n.Agent.IPMasq)
	return os.WriteFile("/run/flannel/subnet.env", []byte(text), 0o644)
}

// Plan implements topology.Lab.
func (l *Lab) Plan() *topology.Plan { return l.plan }

// Status implements topology.Lab.
func (l *Lab) Status(context.Context) (topology.Status, error) {
	return topology.Status{
		Name: l.plan.Name, Provider: l.plan.Provider, State: "running",
		Nodes: len(l.plan.Nodes), Pods: len(l.plan.Pods),
	}, nil
}

// Namespace implements topology.Lab.
func (l *Lab) Namespace(name string) (topology.Namespace, error) {
	if ns := l.spaces[name]; ns != nil {
		return ns, nil
	}
	return nil, fmt.Errorf("no node or pod is called %q", name)
}

// Close ends the lab.
func (l *Lab) Close() error {
	var errs []error
	for _, c := range l.closers {
		errs = append(errs, c())
	}
	l.closers = nil
	for _, ns := range l.spaces {
		errs = append(errs, ns.Set.Close())
	}
	if l.underlay != nil {
		errs = append(errs, l.underlay.Close())
	}
	return errors.Join(errs...)
}

// Name implements topology.Namespace.
func (n *Namespace) Name() string { return n.name }

// Run implements topology.Namespace, without a terminal and signals.
func (n *Namespace) Run(ctx context.Context, p topology.Process) (int, error) {
	code := 0
	err := n.Do(func() error {
		cmd := exec.CommandContext(ctx, p.Argv[0], p.Argv[1:]...)
		cmd.Env, cmd.Dir = append(os.Environ(), p.Env...), p.Dir
		cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
			return nil
		}
		return err
	})
	return code, err
}

// Exec runs a command in a node or pod, and ends the test if it fails; it is
// skipped where the machine has no such command.
func (l *Lab) Exec(tb testing.TB, name string, argv ...string) {
	tb.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		tb.Skipf("SKIPPED, NOT TESTED: this machine has no %s", argv[0])
	}
	ns, err := l.Namespace(name)
	if err != nil {
		tb.Fatal(err)
	}
	var out bytes.Buffer
	code, err := ns.Run(context.Background(), topology.Process{Argv: argv, Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		tb.Fatalf("%s: %v: exit %d: %v\n%s", name, argv, code, err, out.String())
	}
}
