package checks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// peerJoins adds a node to the store (RS-02). Where the lab can, one that was
// there leaves and joins again in earnest: its machine restarts.
func peerJoins(ctx context.Context, env *suite.Env) error {
	g, err := newGhost(env)
	if err != nil {
		return err
	}
	took, err := g.join(ctx)
	joined := fmt.Sprintf("%s served a new lease of %s within %v", count(len(withAgents(env.Plan())), "node"), g.subnet(), rounded(took))
	env.Evidence("%s", joined)
	if err != nil {
		return err
	}
	if can, err := able[suite.NodeRestarter](ctx, env, "restart machines"); err != nil || !can {
		return err
	}
	passed, err := machineRestarted(ctx, env)
	env.Evidence("%s%s", joined, passed)
	return err
}

// peerLeaves takes one away again (RS-03). Where the lab can, another node is
// cordoned meanwhile, which has not left.
func peerLeaves(ctx context.Context, env *suite.Env) error {
	g, err := newGhost(env)
	if err != nil {
		return err
	}
	held, err := cordoned(ctx, env)
	if err != nil {
		return err
	}
	if _, err := g.join(ctx); err != nil {
		return err
	}
	if err := deleteLease(ctx, env, g.lease.Key); err != nil {
		return err
	}
	took, err := g.gone(ctx)
	if err != nil {
		return err
	}
	passed, err := held.end(ctx, env)
	env.Evidence("%s forgot the lease of %s within %v%s", count(len(withAgents(env.Plan())), "node"), g.subnet(), rounded(took), passed)
	return err
}

// peerChanges gives a node another VTEP MAC, and then another address (RS-08).
func peerChanges(ctx context.Context, env *suite.Env) error {
	g, err := newGhost(env)
	if err != nil {
		return err
	}
	if _, err := g.join(ctx); err != nil {
		return err
	}
	var told []string
	change := func(what string, alter func(*lease.Lease)) error {
		old := g.lease
		alter(&g.lease)
		took, err := g.join(ctx)
		if err != nil {
			return err
		}
		_, err = follow(ctx, env, "nothing of the peer's old "+what, func(_ *topology.Node, st *probe.State) string {
			return g.leftOf(old, st)
		})
		told = append(told, fmt.Sprintf("a new %s within %v", what, rounded(took)))
		return err
	}
	if g.lease.BackendType == "vxlan" {
		moved := topology.DeriveMAC("ghost", "moved")
		if err := change("VTEP MAC", func(l *lease.Lease) { *g.ofFamily(l).mac = moved }); err != nil {
			return err
		}
	}
	other, err := freeAddress(env.Plan(), *g.ofFamily(&g.lease).public)
	if err != nil {
		return err
	}
	err = change("address", func(l *lease.Lease) { *g.ofFamily(l).public = other })
	env.Evidence("%s followed %s", count(len(withAgents(env.Plan())), "node"), strings.Join(told, ", "))
	return err
}

// ghost is a node that is in the store only.
type ghost struct {
	env   *suite.Env
	lease lease.Lease
	// segment is the underlay segment that its address is on.
	segment string
}

// newGhost chooses a subnet and an address that nobody has. It is taken from
// the store at the end of the check.
func newGhost(env *suite.Env) (*ghost, error) {
	plan := env.Plan()
	b := plan.Network.Backend
	if !tellsPeers(plan) {
		return nil, suite.NotApplicablef("of the backend %s this check cannot tell whom a node serves", b.Type)
	}
	g := &ghost{env: env, segment: plan.Nodes[0].Underlay().Segment, lease: lease.Lease{BackendType: b.Type}}
	views := []*topology.Plan{env.Lab().Plan()}
	if plan.Is6() { // such a node has both families
		views = append(views, plan)
	}
	var keys []netip.Prefix
	for _, view := range views {
		subnet, err := freeSubnet(view)
		if err != nil {
			return nil, err
		}
		address, err := freeAddress(view)
		if err != nil {
			return nil, err
		}
		of := partOf(&g.lease, view)
		*of.subnet, *of.public = subnet, address
		if b.Type == "vxlan" {
			g.lease.VNI, *of.mac = b.VNI, topology.DeriveMAC("ghost", subnet.String())
		}
		keys = append(keys, subnet)
	}
	if g.lease.Key = lease.Key(keys[0]); len(keys) > 1 {
		g.lease.Key = lease.DualKey(keys[0], keys[1])
	}
	env.Restore("the set of peers", g.remove)
	return g, nil
}

// part is what a lease says of one family.
type part struct {
	subnet *netip.Prefix
	public *netip.Addr
	mac    *topology.MAC
}

// partOf is what a lease says of the family of the plan.
func partOf(l *lease.Lease, plan *topology.Plan) part {
	if plan.Is6() {
		return part{&l.Subnet6, &l.PublicIPv6, &l.VtepMAC6}
	}
	return part{&l.Subnet, &l.PublicIP, &l.VtepMAC}
}

// ofFamily is what a lease says of the family that the check judges.
func (g *ghost) ofFamily(l *lease.Lease) part { return partOf(l, g.env.Plan()) }

// subnet is the node's, of the family that the check judges.
func (g *ghost) subnet() netip.Prefix { return *g.ofFamily(&g.lease).subnet }

// tellsPeers reports whether the kernel's tables tell whom a node serves: what
// udp and wireguard know of peers is in their devices.
func tellsPeers(plan *topology.Plan) bool {
	return slices.Contains([]string{"vxlan", "host-gw", "ipip"}, plan.Network.Backend.Type)
}

// freeSubnet is the last of the network's subnets that no node has.
func freeSubnet(plan *topology.Plan) (netip.Prefix, error) {
	free := freeSubnets(plan, 1)
	if len(free) == 0 {
		return netip.Prefix{}, suite.NotApplicablef("every subnet of %s belongs to a node", plan.Network.Network)
	}
	return free[0], nil
}

// freeSubnets are the last of the network's subnets that no node has, as many
// as are wanted, or as there are.
func freeSubnets(plan *topology.Plan, wanted int) []netip.Prefix {
	var out []netip.Prefix
	n := plan.Network
	for a := n.SubnetMax; a.IsValid() && !a.Less(n.SubnetMin); {
		p := netip.PrefixFrom(a, n.SubnetLen)
		if !slices.ContainsFunc(plan.Nodes, func(n topology.Node) bool { return n.PodCIDR.Overlaps(p) }) {
			if out = append(out, p); len(out) == wanted {
				return out
			}
		}
		before := netip.PrefixFrom(a.Prev(), n.SubnetLen)
		if !a.Prev().IsValid() {
			break
		}
		a = before.Masked().Addr()
	}
	return out
}

// freeAddress is the last address of the first node's segment that nobody has,
// and that is none of those.
func freeAddress(plan *topology.Plan, not ...netip.Addr) (netip.Addr, error) {
	return freeAddressOn(plan, plan.Nodes[0].Underlay().Address.Masked(), not...)
}

// freeAddressOn is the last address of a segment that nobody has, and that is
// none of those.
func freeAddressOn(plan *topology.Plan, cidr netip.Prefix, not ...netip.Addr) (netip.Addr, error) {
	taken := map[netip.Addr]bool{cidr.Addr(): true}
	for _, a := range not {
		taken[a] = true
	}
	note := func(all []topology.Interface) {
		for _, i := range all {
			taken[i.Address.Addr()] = true
		}
	}
	for i := range plan.Nodes {
		note(plan.Nodes[i].Interfaces)
	}
	for i := range plan.Routers {
		note(plan.Routers[i].Interfaces)
	}
	last := lastAddress(cidr)
	for a := last.Prev(); cidr.Contains(a); a = a.Prev() { // the last is the broadcast's
		if !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, suite.NotApplicablef("every address of %s is taken", cidr)
}

func lastAddress(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// join writes the lease and waits until every node serves it.
func (g *ghost) join(ctx context.Context) (time.Duration, error) {
	if err := putLease(ctx, g.env, g.lease); err != nil {
		return 0, err
	}
	return follow(ctx, g.env, "the entries of the new peer "+g.lease.Key, g.missing)
}

// gone waits until no node has anything of the peer.
func (g *ghost) gone(ctx context.Context) (time.Duration, error) {
	return follow(ctx, g.env, "nothing of the peer "+g.lease.Key+", which has left", g.left)
}

// remove takes the lease from the store, and waits until no node has anything
// of it: what comes after must not find it half gone.
func (g *ghost) remove(ctx context.Context) error {
	if err := deleteLease(ctx, g.env, g.lease.Key); err != nil {
		return err
	}
	behind, err := await(ctx, g.env, g.left)
	for node, left := range behind {
		return fmt.Errorf("%s still has %s", node, left)
	}
	return err
}

// left returns what a node has of the peer.
func (g *ghost) left(_ *topology.Node, st *probe.State) string {
	for _, r := range st.Routes {
		if r.Dst == g.subnet() {
			return r.String()
		}
	}
	for _, n := range st.Neighbours {
		if n.IP == g.subnet().Addr() && n.State == "PERMANENT" {
			return n.String()
		}
	}
	return g.leftOf(g.lease, st)
}

// leftOf returns what a node has still of a lease that is no more: its address
// as a gateway, or its MAC.
func (g *ghost) leftOf(old lease.Lease, st *probe.State) string {
	old, now := viewed(g.env.Plan(), old), viewed(g.env.Plan(), g.lease)
	present := old == now
	for _, f := range st.FDB {
		if f.MAC == old.VtepMAC && !f.MAC.IsZero() && (present || old.VtepMAC != now.VtepMAC) ||
			f.Dst == old.PublicIP && (present || old.PublicIP != now.PublicIP) {
			return f.String()
		}
	}
	for _, n := range st.Neighbours {
		if n.MAC == old.VtepMAC && !n.MAC.IsZero() && n.State == "PERMANENT" && (present || old.VtepMAC != now.VtepMAC) {
			return n.String()
		}
	}
	for _, r := range st.Routes {
		if r.Via == old.PublicIP && (present || old.PublicIP != now.PublicIP) {
			return r.String()
		}
	}
	return ""
}

// missing returns what a node lacks to serve the peer.
func (g *ghost) missing(n *topology.Node, st *probe.State) string {
	plan := g.env.Plan()
	l := viewed(plan, g.lease)
	bare := n.Underlay().Segment == g.segment
	switch {
	case l.BackendType == "host-gw", plan.Network.Backend.DirectRouting && bare:
		return lacking(st, match.HaveRoute(probe.Route{Dst: l.Subnet, Via: l.PublicIP, Dev: n.Underlay().Name}))
	case l.BackendType == "ipip":
		return lacking(st, match.HaveRoute(probe.Route{Dst: l.Subnet, Via: l.PublicIP, Dev: tunnel, Onlink: true}))
	}
	dev := vtep(plan)
	return lacking(st,
		match.HaveNeighbour(probe.Neighbour{IP: l.Subnet.Addr(), Dev: dev, MAC: l.VtepMAC, State: "PERMANENT"}),
		match.HaveFDB(probe.FDBEntry{MAC: l.VtepMAC, Dev: dev, Dst: l.PublicIP, Self: true, State: "permanent"}),
		match.HaveRoute(probe.Route{Dst: l.Subnet, Via: l.Subnet.Addr(), Dev: dev, Onlink: true}))
}

// lacking returns what the first matcher that does not match has to say.
func lacking(st *probe.State, wanted ...match.Explainer) string {
	for _, m := range wanted {
		ok, err := m.Match(st)
		if err != nil {
			return err.Error()
		}
		if !ok {
			expected, seen := m.Explain(st)
			return "it lacks " + expected + ": " + seen
		}
	}
	return ""
}

// rounded is a duration to a tenth of a millisecond.
func rounded(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

var errNoPeers = errors.New("the node serves no peer")
