package datapath

import (
	"cmp"
	"net/netip"
	"slices"
)

// Diff returns the changes that make have into want, in the order in which
// they must be applied.
//
// What a peer needs is made in the order neighbour, forwarding entry, IPsec
// association, IPsec policy, route: the route comes last because it is what
// draws packets. What goes is removed in the opposite order, after everything
// was made, so that an entry whose value changes is replaced and never missing
// in between.
func Diff(want, have State) []Change {
	var d diff
	have = d.links(want, have)
	d.addrs(want, have)
	d.neighs(want, have)
	d.fdb(want, have)
	d.routes(of4(want.Routes), of4(have.Routes))
	d.routes6(want, have)
	d.sas(want, have)
	d.policies(want, have)
	return slices.Concat(d.link, d.addr, d.neigh, d.spoilt, d.entry, d.spoiltSA, d.sa, d.policy, d.displaced, d.route,
		d.delRoute, d.delPolicy, d.delSA, d.delEntry, d.delNeigh, d.delAddr)
}

// diff collects changes by the step that they belong to.
type diff struct {
	link, addr, neigh, spoilt, entry, displaced, route []Change
	delRoute, delEntry, delNeigh, delAddr              []Change
	spoiltSA, sa, policy, delPolicy, delSA             []Change
}

// links compares the devices, and returns what will be left of have: nothing
// hangs on a device that is deleted or made anew.
func (d *diff) links(want, have State) State {
	gone := Set[string]{}
	for _, h := range sorted(have.Links, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) }) {
		if w, ok := want.Link(h.Name); !ok || !w.compatible(h) {
			d.link = append(d.link, Change{Delete, h})
			gone.Add(h.Name)
		}
	}
	for _, w := range sorted(want.Links, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) }) {
		switch h, ok := have.Link(w.Name); {
		case !ok || gone.Has(w.Name):
			d.link = append(d.link, Change{Add, w})
		case w != h:
			d.link = append(d.link, Change{Alter, w})
		}
	}
	if len(gone) == 0 {
		return have
	}
	return have.without(gone)
}

// without returns the state less everything that belongs to the devices.
func (s State) without(devices Set[string]) State {
	rest := NewState()
	for l := range s.Links {
		if !devices.Has(l.Name) {
			rest.Links.Add(l)
		}
	}
	for a := range s.Addrs {
		if !devices.Has(a.Dev) {
			rest.Addrs.Add(a)
		}
	}
	for k, mac := range s.Neighs {
		if !devices.Has(k.Dev) {
			rest.Neighs[k] = mac
		}
	}
	for f := range s.FDB {
		if !devices.Has(f.Dev) {
			rest.FDB.Add(f)
		}
	}
	for r := range s.Routes {
		if !devices.Has(r.Dev) {
			rest.Routes.Add(r)
		}
	}
	for r := range s.Rivals {
		if !devices.Has(r.Dev) {
			rest.Rivals.Add(r)
		}
	}
	rest.SAs, rest.Policies = s.SAs, s.Policies
	return rest
}

func (d *diff) addrs(want, have State) {
	byPrefix := func(a, b Addr) int {
		return cmp.Or(cmp.Compare(a.Dev, b.Dev), comparePrefix(a.Prefix, b.Prefix))
	}
	d.addr = changes(Add, missing(want.Addrs, have.Addrs, byPrefix))
	d.delAddr = changes(Delete, missing(have.Addrs, want.Addrs, byPrefix))
}

func (d *diff) neighs(want, have State) {
	var add, del []Neigh
	for k, mac := range want.Neighs {
		if h, ok := have.Neighs[k]; !ok || h != mac {
			add = append(add, Neigh{k, mac})
		}
	}
	for k, mac := range have.Neighs {
		if _, ok := want.Neighs[k]; !ok { // another MAC is replaced, not deleted
			del = append(del, Neigh{k, mac})
		}
	}
	byIP := func(a, b Neigh) int { return cmp.Or(cmp.Compare(a.Dev, b.Dev), a.IP.Compare(b.IP)) }
	slices.SortFunc(add, byIP)
	slices.SortFunc(del, byIP)
	d.neigh, d.delNeigh = changes(Add, add), changes(Delete, del)
}

func (d *diff) fdb(want, have State) {
	byDst := func(a, b FDB) int {
		return cmp.Or(cmp.Compare(a.Dev, b.Dev), a.Dst.Compare(b.Dst), slices.Compare(a.MAC[:], b.MAC[:]),
			cmp.Compare(a.Port, b.Port), cmp.Compare(a.VNI, b.VNI), cmp.Compare(a.Via, b.Via))
	}
	d.entry = changes(Add, missing(want.FDB, have.FDB, byDst))
	extra := missing(have.FDB, want.FDB, byDst)
	if len(extra) == 0 {
		return
	}
	ours := Set[vtep]{}
	for f := range want.FDB {
		ours.Add(f.vtep())
	}
	for _, f := range extra {
		switch {
		case !f.NotPermanent:
			d.delEntry = append(d.delEntry, Change{Delete, f})
		case ours.Has(f.vtep()):
			// It goes first: replacing would leave a second destination, and
			// deleting it afterwards could hit the new entry.
			d.spoilt = append(d.spoilt, Change{Delete, f})
		} // The kernel forgets by itself what it has learned.
	}
}

// byDst orders routes.
func byDst(a, b Route) int {
	return cmp.Or(comparePrefix(a.Dst, b.Dst), cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.TOS, b.TOS), a.Via.Compare(b.Via), cmp.Compare(a.Dev, b.Dev))
}

// routes compares the IPv4 routes.
func (d *diff) routes(want, have Set[Route]) {
	add := missing(want, have, byDst)
	d.route = changes(Add, add)
	replaces := Set[routeKey]{}
	for _, r := range add {
		replaces.Add(r.key())
	}
	for _, r := range missing(have, want, byDst) {
		switch {
		case replaces.Has(r.key()):
			// The first of the same key is displaced by the new route, in one
			// step for the packets. Deleting it afterwards could hit the new
			// one, so any further ones go before.
			delete(replaces, r.key())
		case wants(add, r.key()):
			d.displaced = append(d.displaced, Change{Delete, r})
		default:
			d.delRoute = append(d.delRoute, Change{Delete, r})
		}
	}
}

func wants(add []Route, k routeKey) bool {
	return slices.ContainsFunc(add, func(r Route) bool { return r.key() == k })
}

// missing returns what is in a and not in b, sorted.
func missing[T comparable](a, b Set[T], compare func(T, T) int) []T {
	var out []T
	for v := range a {
		if !b.Has(v) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, compare)
	return out
}

func sorted[T comparable](s Set[T], compare func(T, T) int) []T {
	return missing(s, nil, compare)
}

func changes[E Entry](v Verb, entries []E) []Change {
	out := make([]Change, len(entries))
	for i, e := range entries {
		out[i] = Change{v, e}
	}
	return out
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
