package topology

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// agents settles each node's agent, and the interface that it will find.
func (x *expansion) agents() {
	for _, m := range x.nodes {
		path, s := x.agentSpec(m)
		m.plan.Agent = Agent{
			Command: s.Command, Args: s.Args, Iface: s.Iface, IfaceRegex: s.IfaceRegex, PublicIP: s.PublicIP, IPMasq: or(s.IPMasq, true),
			Restart: RestartAlways, ByHand: or(s.ByHand, false),
		}
		if s.Restart != "" {
			m.plan.Agent.Restart = RestartPolicy(s.Restart)
		}
		if m.plan.Agent.ByHand && len(s.Command)+len(s.Args) > 0 {
			x.add(path("byHand"), "no agent runs on node %s, so that it has neither command nor args", m.plan.Name)
		}
		if len(s.Command) > 0 && s.Command[0] == "" {
			x.add(path("command")+"[0]", "is empty; write a program, or leave command out for the bundled agent")
		}
		if s.PublicIP.IsValid() && !x.checkFamily(path("publicIP"), s.PublicIP, true) {
			continue
		}
		if n := x.chooseInterface(m, path); n != nil {
			m.plan.Agent.Underlay = n.Name
			x.checkUnderlay(m, n)
		}
	}
}

// agentSpec lays a node's agent keys over those of spec.agent. The function
// tells which of the two a key came from.
func (x *expansion) agentSpec(m *machine) (path func(key string) string, s AgentSpec) {
	own := &m.spec.Agent
	s = x.spec.Agent
	mine := map[string]bool{}
	if own.Command != nil {
		s.Command, mine["command"] = own.Command, true
	}
	if own.Args != nil {
		s.Args, mine["args"] = own.Args, true
	}
	if own.Iface != "" {
		s.Iface, mine["iface"] = own.Iface, true
	}
	if own.IfaceRegex != "" {
		s.IfaceRegex, mine["ifaceRegex"] = own.IfaceRegex, true
	}
	if own.PublicIP.IsValid() {
		s.PublicIP, mine["publicIP"] = own.PublicIP, true
	}
	if own.IPMasq != nil {
		s.IPMasq, mine["ipMasq"] = own.IPMasq, true
	}
	if own.Restart != "" {
		s.Restart, mine["restart"] = own.Restart, true
	}
	if own.ByHand != nil {
		s.ByHand, mine["byHand"] = own.ByHand, true
	}
	return func(key string) string {
		if mine[key] {
			return m.path + ".agent." + key
		}
		return "spec.agent." + key
	}, s
}

// chooseInterface picks a node's interface as flanneld does (main.go,
// ipmatch/match.go): without --iface and --iface-regex the owner of
// --public-ip, or else the interface of the default route; with them the
// first that they match, --iface before --iface-regex. Where
// flanneld would give up, for want of a default route of each family, the plan
// has --iface: that of the IPv4 default route, or else the first interface.
func (x *expansion) chooseInterface(m *machine, path func(string) string) *nic {
	a := &m.plan.Agent
	if len(m.interfaces) == 0 {
		return nil
	}
	find := func(is func(*nic) bool) *nic {
		if i := slices.IndexFunc(m.interfaces, is); i >= 0 {
			return m.interfaces[i]
		}
		return nil
	}
	switch {
	case a.Iface != "" || a.IfaceRegex != "":
		return x.matchInterface(m, path, find)
	case a.PublicIP.IsValid():
		n := find(func(n *nic) bool { return n.Address.Addr() == a.PublicIP })
		if n == nil && !m.partial {
			x.once(path("publicIP"), "is %s, which no interface of %s has (%s); name the interface with iface", a.PublicIP, m.name, m.choices())
		}
		return n
	}
	n := find(func(n *nic) bool { return n.Name == m.defaultDev(true) })
	if n == nil {
		n = m.interfaces[0]
	} else if !x.plan.Network.EnableIPv6 || m.defaultDev(false) == n.Name {
		return n
	}
	a.Iface = n.Name
	return n
}

// matchInterface applies iface, then ifaceRegex.
func (x *expansion) matchInterface(m *machine, path func(string) string, find func(func(*nic) bool) *nic) *nic {
	a := &m.plan.Agent
	if a.Iface != "" {
		ip, _ := netip.ParseAddr(a.Iface)
		n := find(func(n *nic) bool {
			return ip.IsValid() && (n.Address.Addr() == ip || n.Address6.Addr() == ip) || n.Name == a.Iface || n.AltName == a.Iface
		})
		if n != nil {
			if a.Iface == n.AltName {
				a.Iface = n.Name // flanneld does not look at altnames
			}
			return n
		}
		if a.IfaceRegex == "" {
			if !m.partial {
				x.once(path("iface"), "is %s, and %s has no such interface; it has %s", show(a.Iface), m.name, m.choices())
			}
			return nil
		}
	}
	re, err := regexp.Compile(a.IfaceRegex)
	if err != nil {
		x.add(path("ifaceRegex"), "is %s, which is not a regular expression: %s", show(a.IfaceRegex), strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return nil
	}
	n := find(func(n *nic) bool {
		return n.Address.IsValid() && re.MatchString(n.Address.Addr().String()) || n.Address6.IsValid() && re.MatchString(n.Address6.Addr().String())
	})
	if n == nil {
		n = find(func(n *nic) bool { return re.MatchString(n.Name) })
	}
	if n == nil && !m.partial {
		x.once(path("ifaceRegex"), "is %s, which matches no address and no name of %s's interfaces; it has %s", show(a.IfaceRegex), m.name, m.choices())
	}
	return n
}

// choices lists a machine's interfaces with their addresses.
func (m *machine) choices() string {
	var all []string
	for _, n := range m.interfaces {
		all = append(all, n.Name+" "+n.Address.Addr().String())
	}
	return strings.Join(all, ", ")
}

// checkUnderlay checks that a dual-stack agent's interface has IPv6.
func (x *expansion) checkUnderlay(m *machine, n *nic) {
	if x.plan.Network.EnableIPv6 && !n.segment.CIDR6.IsValid() {
		x.once(n.segment.entry.path, "has no cidr6, but the agent of %s needs an IPv6 address on its %s; add cidr6", m.name, n.readable())
	}
}

// checkMTUs refuses a dual-stack overlay whose MTU is below the 1280 bytes
// that IPv6 needs (RFC 8200, section 5); the kernel would switch IPv6 off.
func (x *expansion) checkMTUs() {
	if !x.plan.Network.EnableIPv6 {
		return
	}
	for i := range x.plan.Nodes {
		n := &x.plan.Nodes[i]
		if n.Underlay() == nil || x.plan.OverlayMTU(n) >= 1280 {
			continue
		}
		m := x.nodes[i]
		path := m.interfaces[slices.IndexFunc(m.interfaces, func(c *nic) bool { return c.Name == n.Agent.Underlay })].mtuPath
		if x.plan.Network.Backend.MTU != 0 {
			path = "spec.network.Backend.MTU"
		}
		x.once(path, "leaves %s an overlay MTU of %d bytes; IPv6 needs 1280: write %d at least", n.Name, x.plan.OverlayMTU(n), 1280+x.plan.Network.Overhead())
	}
}

// checkHealthz refuses a store on the port of its own node's --healthz-port,
// which flanneld opens on every address.
func (x *expansion) checkHealthz(st *Store) {
	for _, m := range x.nodes {
		if m.name != st.Node {
			continue
		}
		path, s := x.agentSpec(m)
		if healthzPort(s.Args) == st.Port {
			x.add(path("args"), "put the health check of %s's agent on port %d, where the store listens; choose another port", m.name, st.Port)
		}
	}
}

// healthzPort finds the last --healthz-port among a program's arguments, in
// the forms that Go's flag package reads; 0 is none.
func healthzPort(args []string) int {
	port := 0
	for i, a := range args {
		name, value, has := strings.Cut(a, "=")
		if name != "--healthz-port" && name != "-healthz-port" {
			continue
		}
		if !has && i+1 < len(args) {
			value = args[i+1]
		}
		port, _ = strconv.Atoi(value)
	}
	return port
}
