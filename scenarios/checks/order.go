package checks

import (
	"context"
	"fmt"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

func orderCheck() suite.Check {
	return suite.Check{
		ID: "CP-04", Level: suite.Extended, Title: "a peer is programmed in the order neighbour, FDB, route",
		Source: fromFlannel, Profiles: []string{vxlan},
		Needs:    []suite.Feature{suite.IPv4, suite.Peers, suite.FullMesh, suite.WritableLeases},
		Disturbs: true, Part: partOverlay,
		Run: programmedInOrder,
	}
}

// programmedInOrder adds a node to the store, and watches in each node's kernel
// what comes of it first. A route before the others sends packets to a VTEP
// that asks by ARP and floods, or drops them.
func programmedInOrder(ctx context.Context, env *suite.Env) error {
	g, err := newGhost(env)
	if err != nil {
		return err
	}
	nodes := withAgents(env.Plan())
	records := map[string]*suite.Recording{}
	for _, n := range nodes {
		r, err := env.Record(ctx, n.Name)
		if err != nil {
			return err
		}
		defer r.Close()
		records[n.Name] = r
	}
	took, err := g.join(ctx)
	if err != nil {
		return err
	}
	inOrder := 0
	for _, n := range nodes {
		notices, err := records[n.Name].Notices(ctx)
		if err != nil {
			return err
		}
		came := arrivalOf(g.lease, notices)
		switch {
		case came.neighbour < 0 || came.fdb < 0 || came.route < 0:
			// What the node had before is not told of again.
			return suite.Inconclusivef("%s: the kernel did not tell of every entry of %s", n.Name, g.lease.Key)
		case came.neighbour < came.fdb && came.fdb < came.route:
			inOrder++
		default:
			env.Fail(n.Name+", peer "+g.lease.Key, "first the neighbour, then the FDB entry, then the route", came.String())
		}
	}
	env.Evidence("%d of %s served a new lease of %s in order, within %v", inOrder, count(len(nodes), "node"), g.subnet(), rounded(took))
	return nil
}

// arrival is when the entries of a peer came first, as places among a node's
// notices; below 0 where they did not.
type arrival struct{ neighbour, fdb, route int }

func (a arrival) String() string {
	return fmt.Sprintf("the neighbour as number %d, the FDB entry as %d, the route as %d", a.neighbour+1, a.fdb+1, a.route+1)
}

func arrivalOf(l lease.Lease, notices []probe.Notice) arrival {
	out := arrival{-1, -1, -1}
	first := func(at *int, i int, is bool) {
		if is && *at < 0 {
			*at = i
		}
	}
	for i, n := range notices {
		first(&out.neighbour, i, n.Neighbour != nil && n.Neighbour.IP == l.Subnet.Addr() && n.Neighbour.MAC == l.VtepMAC)
		first(&out.fdb, i, n.FDB != nil && n.FDB.MAC == l.VtepMAC && n.FDB.Dst == l.PublicIP)
		first(&out.route, i, n.Route != nil && n.Route.Dst == l.Subnet)
	}
	return out
}
