package diagnose

import "fmt"

// agentRules are those of the agents and of the store that they share.
func agentRules() []rule {
	return []rule{
		{id: "store-gone", rank: rankStore + 2, find: storeGone},
		{id: "store-unreached", rank: rankStore, find: storeUnreached},
		{id: "agent-dead", rank: rankAgent + 1, find: func(seen *Seen) []Cause {
			return agents(seen, func(a Agent) bool { return a.PID == 0 }, "the agent of %s does not run", func(a Agent) (string, string) {
				last := "it never ran"
				if a.Last != "" {
					last = "it ended: " + a.Last
				}
				return last, ""
			})
		}},
		{id: "agent-stopped", rank: rankAgent, find: func(seen *Seen) []Cause {
			return agents(seen, func(a Agent) bool { return a.PID != 0 && (a.State == "T" || a.State == "t") }, "the agent of %s is stopped, and repairs nothing", func(a Agent) (string, string) {
				return fmt.Sprintf("ps: process %d has state %s", a.PID, a.State), fmt.Sprintf("kill -CONT %d", a.PID)
			})
		}},
	}
}

func agents(seen *Seen, is func(Agent) bool, title string, tell func(Agent) (evidence, mend string)) []Cause {
	var out []Cause
	for _, n := range seen.Plan.Nodes {
		a, known := seen.Agents[n.Name]
		if !known || !is(a) {
			continue
		}
		evidence, mend := tell(a)
		c := Cause{Title: fmt.Sprintf(title, n.Name), Node: n.Name, Space: n.Name, Evidence: []string{evidence}}
		if mend != "" {
			c.Mend = []string{mend}
		}
		out = append(out, c)
	}
	return out
}

// unreached are the nodes that do not reach the store, and why.
func unreached(seen *Seen) (nodes, why []string) {
	for _, n := range seen.Plan.Nodes {
		if s := seen.Store[n.Name]; s != "" {
			nodes, why = append(nodes, n.Name), append(why, n.Name+": "+s)
		}
	}
	return nodes, why
}

// storeGone: nobody reaches the store, its own node neither.
func storeGone(seen *Seen) []Cause {
	nodes, why := unreached(seen)
	if len(nodes) == 0 || len(nodes) < len(seen.Store) {
		return nil
	}
	return []Cause{{Title: "the store is gone: no node reaches it", Node: seen.Plan.Store.Node, Space: seen.Plan.Store.Node, Evidence: why}}
}

// storeUnreached: some nodes reach the store, and some do not.
func storeUnreached(seen *Seen) []Cause {
	nodes, why := unreached(seen)
	if len(nodes) == len(seen.Store) {
		return nil
	}
	var out []Cause
	for i, n := range nodes {
		out = append(out, Cause{Title: n + " does not reach the store", Node: n, Space: n, Evidence: why[i : i+1]})
	}
	return out
}
