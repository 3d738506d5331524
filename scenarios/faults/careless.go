package faults

import (
	"fmt"
	"strings"

	"github.com/overlab/overlab/harness/suite"
)

// carelessFaults put a script in the place of a node's agent, which follows the
// store as an agent must and does it badly.
func carelessFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh, suite.EtcdStore}
	return []Fault{
		{
			ID: "AGENT-05", Title: "{node}'s agent adds a peer's route before what it leads to", Breaks: "the first packets to a new node are flooded or lost", Case: "an agent that programs routes first",
			Checks: []string{"CP-04"}, Causes: []string{"agent-stopped"}, Needs: needs,
			Break: func(s *Scene) { s.careless(1000, "$route; $fdb; $neighbour") },
		},
		{
			ID: "AGENT-06", Title: "{node}'s agent serves the first 40 nodes only", Breaks: "pods of {node} do not reach those of later nodes", Case: "a table that is full: gc_thresh3",
			Checks: []string{"SC-01"}, Causes: []string{"agent-stopped"}, Needs: needs,
			Break: func(s *Scene) { s.careless(40, "$neighbour; $fdb; $route") },
		},
	}
}

// careless pauses the node's agent and starts a script in its place that serves
// so many new peers, by the commands in that order, and forgets those that go.
func (s *Scene) careless(most int, order string) {
	const pid = "/run/flannel/careless.pid"
	prefix := s.plan.Store.Prefix + "/subnets/"
	holder := s.plan.Node(s.plan.Store.Node)
	if holder == nil {
		s.fail("lab %s has no node with the store", s.plan.Name)
		return
	}
	order = strings.NewReplacer(
		"$neighbour", "ip neigh replace $at lladdr $mac dev $dev nud permanent",
		"$fdb", "bridge fdb append $mac dev $dev dst $ip",
		"$route", "ip route replace $at/${to#*-} via $at dev $dev onlink").Replace(order)
	script := []string{
		"dev=" + s.vtep(), "served=0",
		fmt.Sprintf("etcdctl --endpoints=http://%s:%d watch %s --prefix |", holder.Underlay().Address.Addr(), s.plan.Store.Port, prefix),
		"while read -r verb && read -r key && read -r value; do",
		"  to=${key##*/}; at=${to%-*}",
		"  if [ $verb = DELETE ]; then",
		"    old=$(ip neigh show $at dev $dev nud permanent | sed -n 's/.*lladdr \\([^ ]*\\).*/\\1/p')",
		"    [ -n \"$old\" ] || continue",
		"    ip route del $at/${to#*-} dev $dev; bridge fdb del $old dev $dev; ip neigh del $at dev $dev; served=$((served-1)); continue",
		"  fi",
		"  mac=$(echo \"$value\" | sed -n 's/.*\"VtepMAC\": *\"\\([^\"]*\\)\".*/\\1/p'); ip=$(echo \"$value\" | sed -n 's/.*\"PublicIP\": *\"\\([^\"]*\\)\".*/\\1/p')",
		"  if ip neigh show $at dev $dev nud permanent | grep -q . || ip -o addr show dev $dev | grep -q \" $at/\"; then continue; fi",
		fmt.Sprintf("  if [ $served -lt %d ]; then served=$((served+1)); %s; fi", most, order),
		"done",
	}
	s.pause(s.node)
	// In a session of its own, which one signal ends whole.
	s.step(s.node.Name,
		[]string{"sh", "-c", "setsid sh -c 'echo $$ > " + pid + "; eval \"$0\"' " + quote(strings.Join(script, "\n")) + " </dev/null >/dev/null 2>&1 & until [ -s " + pid + " ]; do :; done"},
		[]string{"sh", "-c", "kill -- -$(cat " + pid + "); rm " + pid})
}
