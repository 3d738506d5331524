package oracle

import (
	"net/netip"
	"slices"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// This file makes facts of the types in which the harness has the kernel's
// entries. Both sides use it: what a plan asks for, and what a dump shows.

// link is a link as the oracle judges it. Fields that are not judged are zero.
type link struct {
	name string
	// typ is the kind of device, judged where it is not the provider's choice.
	typ    string
	vxlan  *vxlan
	mtu    int
	mac    topology.MAC
	master string
	// peer is the other end's name, where that is known.
	peer string
	// carrier judges whether the link is operational as well as up.
	carrier bool
}

// vxlan is what a VXLAN device has besides.
type vxlan struct {
	vni, port     int
	local, group  netip.Addr
	dev           string
	learning, gbp bool
}

func (l link) fact() Fact {
	f := Fact{Kind: KindLink, ID: l.name, Dev: l.name, Fields: []Field{bare("name", l.name)}}
	add := func(x Field, judged bool) {
		if judged {
			f = f.with(x)
		}
	}
	add(bare("state", "up"), true)
	add(bare("carrier", "lower_up"), l.carrier)
	add(word("mtu", itoa(l.mtu)), l.mtu != 0)
	add(word("address", l.mac.String()), !l.mac.IsZero())
	add(word("master", l.master), l.master != "")
	add(word("peer", l.peer), l.peer != "")
	add(word("type", l.typ), l.typ != "")
	if v := l.vxlan; v != nil {
		f.Fields = append(f.Fields, v.fields()...)
	}
	return f
}

func (v vxlan) fields() []Field {
	learning := bare("learning", "nolearning")
	if v.learning {
		learning.Value = "learning"
	}
	return []Field{
		word("id", itoa(v.vni)), word("group", text(v.group)), word("local", text(v.local)), word("dev", v.dev),
		word("dstport", itoa(v.port)), learning, flag("gbp", v.gbp),
	}
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// address makes the fact of an address on a link.
func address(dev string, p netip.Prefix) Fact {
	return Fact{
		Kind: KindAddress, ID: dev + " " + p.String(), Alt: dev + " " + family(p.Addr()), Dev: dev,
		Fields: []Field{bare("address", p.String()), word("dev", dev)},
	}
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "inet"
	}
	return "inet6"
}

// route makes the fact of a route. The kernel gives IPv6 routes a metric where
// nobody asks for one; that counts as none.
func route(r probe.Route) Fact {
	metric := r.Metric
	if r.Dst.Addr().Is6() && (metric == 1024 || metric == 256) {
		metric = 0
	}
	dst := r.Dst.String()
	if r.Dst.Bits() == 0 {
		dst = "default"
	}
	f := Fact{
		Kind: KindRoute, ID: family(r.Dst.Addr()) + " " + r.Dst.String() + " " + itoa(metric), Dev: r.Dev,
		Fields: []Field{bare("type", r.Kind), bare("dst", dst), word("via", text(r.Via)), word("dev", r.Dev), word("src", text(r.Src))},
	}
	if metric != 0 {
		f = f.with(word("metric", itoa(metric)))
	}
	mtu := ""
	if r.MTU != 0 {
		mtu = itoa(r.MTU)
	}
	return f.with(word("mtu", mtu)).with(flag("onlink", r.Onlink))
}

// neighbour makes the fact of an ARP or NDP entry.
func neighbour(n probe.Neighbour) Fact {
	return Fact{
		Kind: KindNeighbour, ID: n.IP.String() + " " + n.Dev, Dev: n.Dev,
		Fields: []Field{bare("ip", n.IP.String()), word("dev", n.Dev), word("lladdr", n.MAC.String()), bare("nud", n.State)},
	}
}

// fdb makes the fact of a forwarding entry. The all-zero entry, which floods,
// has its address spelt out.
func fdb(e probe.FDBEntry) Fact {
	where := "master"
	if e.Self {
		where = "self"
	}
	f := Fact{
		Kind: KindFDB, ID: e.MAC.HardwareAddr().String() + " " + e.Dev, Dev: e.Dev,
		Fields: []Field{
			bare("mac", e.MAC.HardwareAddr().String()), word("dev", e.Dev), word("dst", text(e.Dst)),
			bare("where", where), bare("state", e.State),
		},
	}
	if e.Dst.IsValid() {
		f.Alt = e.Dev + " " + e.Dst.String()
	}
	return f
}

// without returns the fact without a field, so that it is not judged.
func (f Fact) without(name string) Fact {
	var fields []Field
	for _, x := range f.Fields {
		if x.Name != name {
			fields = append(fields, x)
		}
	}
	f.Fields = fields
	return f
}

// unknown returns the fact with a field whose value nobody knows.
func (f Fact) unknown(name string) Fact {
	f.Fields = slices.Clone(f.Fields)
	for i := range f.Fields {
		if f.Fields[i].Name == name {
			f.Fields[i].Value = unknown
		}
	}
	return f
}

// forPeer returns the fact with whom and what it is for.
func (f Fact) forPeer(peer, purpose string) Fact {
	f.Peer, f.Purpose = peer, purpose
	return f
}

// optional returns the fact as one that need not be there.
func (f Fact) optional() Fact {
	f.Optional = true
	return f
}
