package datapath

// routes6 compares the IPv6 routes. There a route does not always take another's
// place: it may come to stand beside it, or become one more hop of it. So
// whatever has the key of a wanted route goes first, in the same batch.
func (d *diff) routes6(want, have State) {
	wanted, present := byKey(want.Routes), byKey(have.Routes)
	rivals := byKey(have.Rivals)
	for _, w := range sorted(of6(want.Routes), byDst) {
		k := w.key()
		if len(present[k]) == 1 && present[k].Has(w) && len(rivals[k]) == 0 {
			continue
		}
		d.displaced = append(d.displaced, deletions(present[k])...)
		d.displaced = append(d.displaced, deletions(rivals[k])...)
		d.route = append(d.route, Change{Add, w})
	}
	for _, r := range sorted(of6(have.Routes), byDst) {
		if len(wanted[r.key()]) == 0 {
			d.delRoute = append(d.delRoute, Change{Delete, r})
		}
	}
}

// deletions deletes routes of one key. Those without a next hop come last: to
// the kernel, the words that name such a route name every route of the device.
func deletions(routes Set[Route]) []Change {
	var hops, rest []Route
	for _, r := range sorted(routes, byDst) {
		if r.Via.IsValid() {
			hops = append(hops, r)
		} else {
			rest = append(rest, r)
		}
	}
	return changes(Delete, append(hops, rest...))
}

// byKey groups the IPv6 routes.
func byKey(routes Set[Route]) map[routeKey]Set[Route] {
	out := map[routeKey]Set[Route]{}
	for r := range of6(routes) {
		if out[r.key()] == nil {
			out[r.key()] = Set[Route]{}
		}
		out[r.key()].Add(r)
	}
	return out
}

func of4(routes Set[Route]) Set[Route] { return ofFamily(routes, true) }

func of6(routes Set[Route]) Set[Route] { return ofFamily(routes, false) }

func ofFamily(routes Set[Route], is4 bool) Set[Route] {
	out := Set[Route]{}
	for r := range routes {
		if r.Dst.Addr().Is4() == is4 {
			out.Add(r)
		}
	}
	return out
}
