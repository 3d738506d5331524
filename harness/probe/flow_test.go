package probe_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

func startFlow(t *testing.T, from, to *probe.Session, f probe.Flow) *probe.Stream {
	t.Helper()
	st, err := from.StartFlow(t.Context(), to, f)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func more(t *testing.T, st *probe.Stream, n int) {
	t.Helper()
	if err := st.Reach(t.Context(), st.Sent()+n); err != nil {
		t.Fatal(err)
	}
}

func stop(t *testing.T, st *probe.Stream) *probe.FlowReport {
	t.Helper()
	l, err := st.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return l.Report()
}

// TestFlow: nothing is lost on a sound path, and of a broken one exactly what
// was sent while it was broken. The path is from master-pod-1 to node-1-pod-1.
func TestFlow(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	from, to, node := open(t, lab, "master-pod-1"), open(t, lab, "node-1-pod-1"), open(t, lab, "master")

	t.Run("sound", func(t *testing.T) {
		a := startFlow(t, from, to, probe.Flow{To: nodePod, Rate: 1000})
		b := startFlow(t, from, to, probe.Flow{To: nodePod, Size: 1200})
		more(t, a, 200)
		more(t, b, 10)
		for _, st := range []*probe.Stream{a, b} {
			r := stop(t, st)
			if r.Sent < 10 || r.Received != r.Sent || len(r.Lost)+r.Duplicated+r.Reordered+r.Overflowed > 0 {
				t.Error(r)
			}
		}
		if _, err := a.Stop(t.Context()); err == nil {
			t.Error("a flow was stopped twice")
		}
		if err := a.Reach(t.Context(), a.Sent()+1); err == nil {
			t.Error("a stopped flow sends more")
		}
	})

	t.Run("an entry that is gone for a while", func(t *testing.T) {
		route := probe.Route{Dst: netip.MustParsePrefix("10.244.1.0/24"), Via: netip.MustParseAddr("10.244.1.0"), Dev: "flannel.1", Onlink: true}
		missing := func(st *probe.State) string {
			for _, r := range st.RoutesVia("flannel.1") {
				if r.Dst == route.Dst && r.Via == route.Via && r.Onlink {
					return ""
				}
			}
			return "the route is missing"
		}
		m, err := node.Monitor()
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		st := startFlow(t, from, to, probe.Flow{To: nodePod, Rate: 500})
		more(t, st, 20)
		began := time.Now()
		if err := node.Change(t.Context(), probe.Change{Delete: true, Route: &route}); err != nil {
			t.Fatal(err)
		}
		more(t, st, 20)
		short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := m.Until(short, missing); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "master: the route is missing") {
			t.Errorf("the monitor says %v", err)
		}
		if err := node.Change(t.Context(), probe.Change{Route: &route}); err != nil {
			t.Fatal(err)
		}
		ended, err := m.Until(t.Context(), missing)
		if err != nil {
			t.Fatal(err)
		}
		more(t, st, 20)
		r := stop(t, st)
		if len(r.Lost) < 20 || r.Received+len(r.Lost) != r.Sent {
			t.Error(r)
		}
		for _, l := range r.Lost {
			if l.Until.Before(began) || l.From.After(ended) {
				t.Errorf("number %d was lost at %v, and the route was gone from %v to %v", l.Number, l.From, began, ended)
			}
		}
		t.Log(r)
	})

	t.Run("a path that doubles", func(t *testing.T) {
		lab.Exec(t, "node-1", "nft", "add table ip t; add chain ip t c { type filter hook prerouting priority 0; }; add rule ip t c meta l4proto udp ip daddr 10.244.1.2 dup to 10.244.1.2 device cni0")
		defer lab.Exec(t, "node-1", "nft", "delete table ip t")
		st := startFlow(t, from, to, probe.Flow{To: nodePod, Rate: 500})
		more(t, st, 20)
		if r := stop(t, st); r.Received != r.Sent || r.Duplicated < 20 {
			t.Error(r)
		}
	})

	t.Run("refusals", func(t *testing.T) {
		for _, f := range []probe.Flow{{}, {To: netip.IPv6LinkLocalAllNodes()}, {To: nodePod, Rate: -1}, {To: nodePod, Size: 3}} {
			if st, err := from.StartFlow(t.Context(), to, f); err == nil {
				t.Errorf("%+v: no error", f)
				stop(t, st)
			}
		}
		id := uuid.New()
		st := startFlow(t, from, to, probe.Flow{To: nodePod, ID: id})
		if _, err := from.StartFlow(t.Context(), to, probe.Flow{To: nodePod, ID: id}); err == nil {
			t.Error("two flows of one identifier")
		}
		stop(t, st)
	})
}

// TestChange: what is set is in the dump, and what is deleted is not.
func TestChange(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	s := open(t, lab, "master")
	mac := topology.DeriveMAC("a", "b")
	route := probe.Route{Dst: netip.MustParsePrefix("10.99.0.0/24"), Via: netip.MustParseAddr("172.16.1.9"), Dev: "ens3", Protocol: "static", Metric: 7}
	neigh := probe.Neighbour{IP: netip.MustParseAddr("10.99.0.1"), Dev: "flannel.1", MAC: mac, State: "PERMANENT"}
	fdb := probe.FDBEntry{MAC: mac, Dev: "flannel.1", Dst: netip.MustParseAddr("172.16.1.77"), Self: true, State: "permanent"}
	there := func() string {
		st, err := s.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, r := range st.Routes {
			if r == route {
				lines = append(lines, r.String())
			}
		}
		for _, n := range st.Neighbours {
			if n == neigh {
				lines = append(lines, n.String())
			}
		}
		for _, f := range st.FDB {
			if f == fdb {
				lines = append(lines, f.String())
			}
		}
		if l := st.Link("ens3"); !l.Up {
			lines = append(lines, "ens3 down")
		}
		return strings.Join(lines, "; ")
	}
	change := func(c ...probe.Change) {
		t.Helper()
		if err := s.Change(t.Context(), c...); err != nil {
			t.Error(err)
		}
	}
	change(probe.Change{Route: &route}, probe.Change{Neighbour: &neigh}, probe.Change{FDB: &fdb})
	if got, want := there(), route.String()+"; "+neigh.String()+"; "+fdb.String(); got != want {
		t.Errorf("set: %s, not %s", got, want)
	}
	change(probe.Change{Delete: true, Route: &route}, probe.Change{Delete: true, Neighbour: &neigh}, probe.Change{Delete: true, FDB: &fdb})
	change(probe.Change{Link: "ens3", Down: true})
	if got := there(); got != "ens3 down" {
		t.Errorf("deleted: %s", got)
	}
	change(probe.Change{Link: "ens3"})
	change(probe.Change{Delete: true, Link: "flannel.1"})
	err := s.Change(t.Context(), probe.Change{FDB: &fdb})
	if want := "master: bridge fdb replace " + fdb.String(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q in it", err, want)
	}
}
