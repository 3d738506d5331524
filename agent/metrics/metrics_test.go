package metrics

import (
	"errors"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/overlab/overlab/agent"
	"github.com/overlab/overlab/agent/datapath"
)

func scrape(m *Metrics) string {
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestMetrics(t *testing.T) {
	m := New("v1.2.3")
	topics := map[string]error{"store": nil, "network configuration": errors.New("none")}
	m.Watch(func() map[string]error { return topics })
	fresh := scrape(m)
	route := datapath.Route{Dst: netip.MustParsePrefix("10.244.2.0/24"), Dev: "flannel.1"}
	addr := datapath.Addr{Dev: "flannel.1", Prefix: netip.MustParsePrefix("10.244.1.0/32")}
	want, have := datapath.NewState(), datapath.NewState()
	want.Routes.Add(route)
	want.Addrs.Add(addr)
	have.Addrs.Add(addr)
	m.Leases(7, 2)
	m.Entries(want, have)
	m.Reconciled(agent.ReasonRepair, 300*time.Microsecond, []datapath.Change{{Verb: datapath.Add, Entry: route}, {Verb: datapath.Delete, Entry: addr}}, nil)
	m.Reconciled(agent.ReasonLeases, 2*time.Second, []datapath.Change{{Verb: datapath.Add, Entry: route}}, errors.New("no"))
	m.Repaired("firewall")
	m.Renewed(nil)
	m.Renewed(errors.New("no"))
	m.Leased(time.UnixMilli(1700000000500))
	topics["store"] = errors.New("away")
	later := scrape(m)
	for _, tt := range []struct{ text, line string }{
		{fresh, `overlab_agent_repairs_total{kind="route"} 0`},
		{fresh, `overlab_agent_lease_expiry_timestamp_seconds 0`},
		{fresh, `overlab_agent_store_connected 1`},
		{fresh, `overlab_agent_ready{topic="network_configuration"} 0`},
		{later, `overlab_agent_leases 7`},
		{later, `overlab_agent_leases_unreadable 2`},
		{later, `overlab_agent_entries_desired{kind="route"} 1`},
		{later, `overlab_agent_entries{kind="route"} 0`},
		{later, `overlab_agent_entries{kind="addr"} 1`},
		{later, `overlab_agent_changes_total{kind="route",reason="leases"} 1`},
		{later, `overlab_agent_repairs_total{kind="route"} 1`},
		{later, `overlab_agent_repairs_total{kind="addr"} 1`},
		{later, `overlab_agent_repairs_total{kind="firewall"} 1`},
		{later, `overlab_agent_reconcile_duration_seconds_bucket{reason="repair",le="0.0002"} 0`},
		{later, `overlab_agent_reconcile_duration_seconds_bucket{reason="repair",le="0.0004"} 1`},
		{later, `overlab_agent_reconcile_duration_seconds_sum{reason="leases"} 2`},
		{later, `overlab_agent_reconcile_errors_total 1`},
		{later, `overlab_agent_lease_renewals_total{result="success"} 1`},
		{later, `overlab_agent_lease_renewals_total{result="failure"} 1`},
		{later, `overlab_agent_lease_expiry_timestamp_seconds 1.7000000005e+09`},
		{later, `overlab_agent_store_connected 0`},
		{later, `process_resident_memory_bytes`},
	} {
		if !strings.Contains(tt.text, tt.line) {
			t.Errorf("no %s in\n%s", tt.line, tt.text)
		}
	}
	if !strings.Contains(later, `overlab_agent_build_info{goversion="go1.`) || !strings.Contains(later, `version="v1.2.3"} 1`) {
		t.Error("no build info")
	}
	m.Leased(time.Time{})
	if !strings.Contains(scrape(m), "overlab_agent_lease_expiry_timestamp_seconds +Inf") {
		t.Error("a lease without an end has one")
	}
}
