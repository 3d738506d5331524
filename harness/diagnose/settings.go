package diagnose

import (
	"fmt"
	"slices"
	"strings"
)

// settingRules are those of sysctls and of the counters that show their work.
func settingRules() []rule {
	return []rule{
		{id: "reverse-path", rank: rankCounter, find: reversePath},
		{id: "checksum", rank: rankCounter, find: checksums},
		{id: "forwarding-device", rank: rankSysctl, find: deviceSetting("forwarding", "does not forward what comes in by %s", func(v string) bool { return v == "0" }, "1")},
		{id: "arp-ignore", rank: rankSysctl, find: deviceSetting("arp_ignore", "may not answer ARP requests on %s", func(v string) bool { return v != "0" }, "0")},
		{id: "ttl", rank: rankSysctl, find: setting("net/ipv4/ip_default_ttl", "64", "%s sends with another TTL than 64")},
		{id: "ttl", rank: rankSysctl, find: deviceSetting("hop_limit", "sends with another hop limit than 64 on %s", func(v string) bool { return v != "64" }, "64")},
		{id: "echo-ignored", rank: rankSysctl, find: setting("net/ipv4/icmp_echo_ignore_all", "0", "%s answers no ping")},
		{id: "echo-ignored", rank: rankSysctl, find: setting("net/ipv6/icmp/echo_ignore_all", "0", "%s answers no ping over IPv6")},
		{id: "ipv6-disabled", rank: rankAddress + 2, find: deviceSetting("disable_ipv6", "has IPv6 switched off on %s", func(v string) bool { return v == "1" }, "0")},
	}
}

// inPlace returns a cause in a node or pod.
func inPlace(seen *Seen, space, title string) Cause {
	c := Cause{Title: title, Node: space, Space: space}
	if p := seen.Plan.Pod(space); p != nil {
		c.Node, c.Pod = p.Node, p.Name
	}
	return c
}

// spaces are the nodes and then the pods, in the plan's order.
func spaces(seen *Seen) []string {
	var out []string
	for _, n := range seen.Plan.Nodes {
		out = append(out, n.Name)
	}
	for _, p := range seen.Plan.Pods {
		out = append(out, p.Name)
	}
	return out
}

// setting finds namespaces where a sysctl has another value.
func setting(key, want, title string) func(*Seen) []Cause {
	return func(seen *Seen) []Cause {
		var out []Cause
		for _, space := range spaces(seen) {
			if v, read := seen.Sysctls[space][key]; read && v != want {
				c := inPlace(seen, space, fmt.Sprintf(title, space))
				c.Evidence = []string{fmt.Sprintf("sysctl on %s: %s = %s", space, key, v)}
				c.Mend = []string{"sysctl -w " + key + "=" + want}
				out = append(out, c)
			}
		}
		return out
	}
}

// deviceSetting finds devices whose sysctl is bad. Of forwarding, a node that
// does not forward at all is another cause's.
func deviceSetting(name, title string, bad func(string) bool, want string) func(*Seen) []Cause {
	return func(seen *Seen) []Cause {
		var out []Cause
		for _, space := range spaces(seen) {
			values := seen.Sysctls[space]
			for _, key := range sortedKeys(values) {
				dev, suffix, is := ofDevice(key)
				if !is || suffix != name || !bad(values[key]) {
					continue
				}
				c := inPlace(seen, space, space+" "+fmt.Sprintf(title, dev))
				c.Evidence = []string{fmt.Sprintf("sysctl on %s: %s = %s", space, key, values[key])}
				c.Mend = []string{"sysctl -w " + key + "=" + want}
				out = append(out, c)
			}
		}
		if name == "forwarding" {
			out = slices.DeleteFunc(out, func(c Cause) bool { return globallyOff(seen, c.Node) })
		}
		return out
	}
}

// ofDevice takes the key of a device's sysctl apart.
func ofDevice(key string) (dev, name string, is bool) {
	words := strings.Split(key, "/")
	if len(words) != 5 || words[0] != "net" || words[2] != "conf" {
		return "", "", false
	}
	return words[3], words[4], true
}

// globallyOff reports whether a node's ip_forward is off, which takes that of
// every device with it.
func globallyOff(seen *Seen, node string) bool {
	for _, e := range seen.Diff.Entries {
		if e.Kind == "sysctl" && e.Node == node {
			return true
		}
	}
	return false
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// reversePath finds nodes that dropped probes because an answer would go
// another way (rp_filter; the kernel counts it in TcpExt IPReversePathFilter).
func reversePath(seen *Seen) []Cause {
	var out []Cause
	for _, n := range seen.Plan.Nodes {
		dropped := seen.Grown[n.Name]["TcpExt IPReversePathFilter"]
		if dropped == 0 {
			continue
		}
		c := Cause{
			Title: n.Name + " drops packets whose answers would go another way", Node: n.Name, Space: n.Name,
			Evidence: []string{fmt.Sprintf("nstat on %s: IPReversePathFilter grew by %d while the probes ran", n.Name, dropped)},
		}
		for _, key := range sortedKeys(seen.Sysctls[n.Name]) {
			if strings.HasSuffix(key, "/rp_filter") && seen.Sysctls[n.Name][key] == "1" {
				c.Evidence = append(c.Evidence, fmt.Sprintf("sysctl on %s: %s = 1", n.Name, key))
				c.Mend = append(c.Mend, "sysctl -w "+key+"=0")
			}
		}
		out = append(out, c)
	}
	return out
}

// checksums finds nodes whose packets arrive with wrong checksums, which is
// what a card does that cannot compute those of tunnelled packets.
func checksums(seen *Seen) []Cause {
	var out []Cause
	for _, p := range seen.Probes {
		if p.OK {
			continue
		}
		for _, protocol := range []string{"Icmp", "Icmp6", "Tcp"} {
			grew := seen.Grown[p.To][protocol+" InCsumErrors"]
			if grew == 0 || (protocol == "Tcp") != (p.Port != 0) || protocol != "Tcp" && p.IPv6 != (protocol == "Icmp6") {
				continue
			}
			title := fmt.Sprintf("packets of %s arrive with wrong %s checksums", p.FromNode, strings.ToUpper(protocol))
			out = append(out, Cause{
				Title: title, Node: p.FromNode, Peer: p.ToNode, Space: p.FromNode,
				Evidence: []string{fmt.Sprintf("nstat in %s: %sInCsumErrors grew while %s sent to it", p.To, protocol, p.From), p.String()},
				Mend:     []string{fmt.Sprintf("ethtool -K %s tx-checksum-ip-generic off", seen.Plan.Node(p.FromNode).Underlay().Name)},
			})
		}
	}
	return out
}
