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
	"strings"
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
	switch p.Network.Backend.Type {
	case "wireguard", "udp", "ipip":
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
	vtep6Index  = 24
	firstPort   = 30
)

func (l *Lab) build() error {
	var err error
	if l.underlay, err = l.create(unix.CLONE_NEWNET); err != nil {
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
	switch l.plan.Network.Backend.Type {
	case "wireguard":
		if err := l.wireWireGuard(); err != nil {
			return err
		}
	case "udp", "ipip":
		if err := l.wireProxies(); err != nil {
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
	if l.plan.Network.EnableIPv6 {
		if err := l.solicitable(); err != nil {
			return err
		}
	}
	return forwarding(l.underlay)
}

// patience is more than the kernel takes for what it does later, on a machine
// that does much else.
const patience = 30 * time.Second

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
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
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

// solicitable waits until neighbours can find every pod and cni0: the kernel
// joins an address's group (RFC 4291 section 2.7.1) after it has the address,
// and who asks before asks again only after a second.
func (l *Lab) solicitable() error {
	p := l.plan.Over6()
	for _, pod := range p.Pods {
		if err := joined(l.spaces[pod.Name].Set, "eth0", pod.Address.Addr()); err != nil {
			return fmt.Errorf("pod %s: %w", pod.Name, err)
		}
		if err := joined(l.spaces[pod.Node].Set, "cni0", p.Node(pod.Node).Gateway().Addr()); err != nil {
			return fmt.Errorf("node %s: %w", pod.Node, err)
		}
	}
	return nil
}

// Solicitable waits until neighbours can find an IPv6 address that was added to
// a node's or pod's device.
func (l *Lab) Solicitable(t testing.TB, space, dev string, a netip.Addr) {
	t.Helper()
	if err := joined(l.spaces[space].Set, dev, a); err != nil {
		t.Fatalf("%s: %v", space, err)
	}
}

func joined(set *netns.Set, dev string, a netip.Addr) error {
	bytes := a.As16()
	group := fmt.Sprintf("ff0200000000000000000001ff%x", bytes[13:])
	return set.Do(func() error {
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			text, err := os.ReadFile("/proc/thread-self/net/igmp6")
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(text)) {
				if f := strings.Fields(line); len(f) > 2 && f[1] == dev && f[2] == group {
					return nil
				}
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s does not listen for who asks for %s", dev, a)
			}
		}
	})
}

func (l *Lab) space(name string, flags int) error {
	set, err := l.create(flags)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	l.spaces[name] = &Namespace{Set: set, name: name}
	return nil
}

func (l *Lab) create(flags int) (*netns.Set, error) {
	noIPv6 := "1"
	if l.plan.Network.EnableIPv6 {
		noIPv6 = "0"
	}
	return netns.Create(flags, func() error {
		for path, value := range map[string]string{
			"/proc/sys/net/ipv4/ip_forward":                 "1",
			"/proc/sys/net/bridge/bridge-nf-call-iptables":  "0",
			"/proc/sys/net/bridge/bridge-nf-call-ip6tables": "0",
			"/proc/sys/net/ipv6/conf/default/disable_ipv6":  noIPv6,
			"/proc/sys/net/ipv6/conf/all/disable_ipv6":      noIPv6,
			"/proc/sys/net/ipv6/conf/default/accept_dad":    "0",
			"/proc/sys/net/ipv6/conf/all/forwarding":        "1",
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
	mtu := l.plan.OverlayMTU(n)
	b.SetLink(rtnl.Link{Index: uplinkIndex, Up: true})
	for _, p := range l.families() {
		b.AddAddr(uplinkIndex, p.Node(n.Name).Underlay().Address)
		for _, peer := range p.Nodes {
			if peer.Name != n.Name {
				// Dynamic entries count against a limit of the whole kernel.
				b.AddNeigh(rtnl.Neigh{Dev: uplinkIndex, IP: peer.PublicIP(), MAC: peer.Underlay().MAC.HardwareAddr()})
			}
		}
	}
	if pods := l.plan.PodsOn(n.Name); len(pods) > 0 {
		b.AddBridge(rtnl.Link{Name: "cni0", Index: bridgeIndex, MTU: mtu, MAC: n.BridgeMAC.HardwareAddr(), Up: true})
		for _, p := range l.families() {
			b.AddAddr(bridgeIndex, p.Node(n.Name).Gateway())
		}
		for j, p := range pods {
			b.AddVeth(
				rtnl.Link{Name: p.HostInterface, Index: firstPort + j, MTU: mtu, Master: bridgeIndex, Up: true},
				rtnl.Link{Name: "eth0", Index: podIndex, MTU: mtu, MAC: p.MAC.HardwareAddr(), NetNS: l.spaces[p.Name].Net},
			)
		}
	}
	for _, p := range l.families() {
		n := p.Node(n.Name)
		wireOverlay(b, p, n, vxlan(p, n))
	}
}

// families returns the plan as each of the overlay's families sees it.
func (l *Lab) families() []*topology.Plan {
	if l.plan.Network.EnableIPv6 {
		return []*topology.Plan{l.plan, l.plan.Over6()}
	}
	return []*topology.Plan{l.plan}
}

// wireOverlay makes one family's part of the overlay on a node.
func wireOverlay(b *rtnl.Batch, p *topology.Plan, n *topology.Node, v rtnl.Vxlan) {
	backend := p.Network.Backend
	switch backend.Type {
	case "host-gw":
		wireBareRoutes(b, p, n)
		return
	case "alloc", "wireguard", "udp", "ipip": // wireWireGuard and wireProxies make the devices
		return
	}
	name, index := vtep(p)
	b.AddVxlan(rtnl.Link{
		Name: name, Index: index,
		MAC: vtepMAC(p, n).HardwareAddr(), MTU: p.OverlayMTU(n), Up: true,
	}, v)
	b.AddAddr(index, netip.PrefixFrom(n.PodCIDR.Addr(), n.PodCIDR.Addr().BitLen()))
	if backend.DirectRouting { // there is one segment
		wireBareRoutes(b, p, n)
		return
	}
	for i := range p.Nodes {
		peer := &p.Nodes[i]
		if peer.Name == n.Name {
			continue
		}
		via := peer.PodCIDR.Addr()
		b.AddNeigh(rtnl.Neigh{Dev: index, IP: via, MAC: vtepMAC(p, peer).HardwareAddr()})
		b.AddFDB(rtnl.FDB{Dev: index, MAC: vtepMAC(p, peer).HardwareAddr(), Dst: peer.PublicIP()})
		b.AddRoute(rtnl.Route{Dst: peer.PodCIDR, Via: via, Dev: index, Onlink: true})
	}
}

// wireBareRoutes leads to each peer's pods by the peer's own address.
func wireBareRoutes(b *rtnl.Batch, p *topology.Plan, n *topology.Node) {
	for i := range p.Nodes {
		if peer := &p.Nodes[i]; peer.Name != n.Name {
			b.AddRoute(rtnl.Route{Dst: peer.PodCIDR, Via: peer.PublicIP(), Dev: uplinkIndex})
		}
	}
}

// Rewire makes a node's VXLAN device and mesh entries anew, whatever was done
// to them; change, where given, alters the device first.
func (l *Lab) Rewire(tb testing.TB, node string, change ...func(*rtnl.Vxlan)) {
	tb.Helper()
	l.rewire(tb, l.plan, node, change)
}

// Rewire6 is Rewire for the device and the entries of IPv6.
func (l *Lab) Rewire6(tb testing.TB, node string, change ...func(*rtnl.Vxlan)) {
	tb.Helper()
	l.rewire(tb, l.plan.Over6(), node, change)
}

func (l *Lab) rewire(tb testing.TB, p *topology.Plan, node string, change []func(*rtnl.Vxlan)) {
	tb.Helper()
	n := p.Node(node)
	v := vxlan(p, n)
	for _, c := range change {
		c(&v)
	}
	space := l.spaces[node].Set
	name, index := vtep(p)
	err := space.Do(func() error {
		c, err := rtnl.Dial()
		if err != nil {
			return err
		}
		// One that a fault has made anew has an index of the kernel's choice.
		if have, err := c.LinkByName(name); err == nil {
			index = have.Index
		}
		return c.Close()
	})
	if err == nil {
		err = batch(space, func(b *rtnl.Batch) {
			b.DelLink(index)
			b.Tolerate(unix.ENODEV)
			wireOverlay(b, p, n, v)
		})
	}
	if err != nil {
		tb.Fatalf("rewire %s: %v", node, err)
	}
}

// vtep is the name and index of every node's VXLAN device, of one family.
func vtep(p *topology.Plan) (name string, index int) {
	if p.Is6() {
		return fmt.Sprintf("flannel-v6.%d", p.Network.Backend.VNI), vtep6Index
	}
	return fmt.Sprintf("flannel.%d", p.Network.Backend.VNI), vtepIndex
}

// vtepMAC is the device's.
func vtepMAC(p *topology.Plan, n *topology.Node) topology.MAC {
	if p.Is6() {
		return topology.DeriveMAC(n.Name, "vtep6")
	}
	return n.VtepMAC
}

func vxlan(p *topology.Plan, n *topology.Node) rtnl.Vxlan {
	b := p.Network.Backend
	return rtnl.Vxlan{VNI: b.VNI, Port: b.Port, Local: n.PublicIP(), Dev: uplinkIndex, Learning: b.Learning, ZeroChecksum: true}
}

func (l *Lab) wirePod(b *rtnl.Batch, p *topology.Pod) {
	b.SetLink(rtnl.Link{Index: podIndex, Up: true})
	for _, plan := range l.families() {
		gateway := plan.Node(p.Node).Gateway().Addr()
		b.AddAddr(podIndex, plan.Pod(p.Name).Address)
		b.AddRoute(rtnl.Route{Via: gateway, Dev: podIndex})
		b.AddRoute(rtnl.Route{Dst: plan.Network.Network, Via: gateway, Dev: podIndex})
	}
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
	if name == "underlay" {
		return &Namespace{Set: l.underlay, name: name}, nil
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
