package oracle

import (
	"cmp"
	"strings"
)

// value returns a field's value.
func (f Fact) value(name string) string {
	v, _ := f.field(name)
	return v
}

// mendMissing returns the command that makes a missing entry.
func mendMissing(w Fact) string {
	switch w.Kind {
	case KindLink:
		if strings.HasPrefix(w.value("type"), "vxlan") || w.value("type") == "bridge" {
			return addLink(w)
		}
	case KindAddress:
		return "ip addr add " + w.String()
	case KindRoute:
		return "ip route replace " + w.String()
	case KindNeighbour:
		if w.value("lladdr") == unknown {
			return ""
		}
		return "ip neigh replace " + w.without("nud").String() + " nud permanent"
	case KindFDB:
		if w.value("mac") == unknown {
			return ""
		}
		return "bridge fdb append " + w.String()
	case KindPolicy:
		return ipRule(w) + " add " + w.String()
	case KindSysctl:
		return setSysctl(w)
	case KindIPTables, KindIP6Tables, KindNFTables:
		return w.rule("-A", "add")
	case KindWireGuard:
		return mendPeer(w)
	case KindXFRMState, KindXFRMPolicy:
		return mendXFRMMissing(w)
	case KindFile:
		return "echo " + w.String() + " >> " + subnetFile
	}
	return ""
}

// mendExtra returns the command that removes an entry.
func mendExtra(h Fact) string {
	switch h.Kind {
	case KindLink:
		if h.value("type") == "veth" {
			return "ip link set " + h.ID + " nomaster"
		}
		return "ip link del " + h.ID
	case KindAddress:
		return "ip addr del " + h.String()
	case KindRoute:
		return "ip route del " + h.String()
	case KindNeighbour:
		return "ip neigh del " + h.value("ip") + " dev " + h.Dev
	case KindFDB:
		return "bridge fdb del " + h.without("state").String()
	case KindPolicy:
		return ipRule(h) + " del priority " + cmp.Or(h.value("priority"), "0")
	case KindIPTables, KindIP6Tables, KindNFTables:
		return h.rule("-D", "delete")
	case KindWireGuard:
		if peer := h.value("peer"); peer != "" {
			return "wg set " + h.Dev + " peer " + peer + " remove"
		}
	case KindXFRMState, KindXFRMPolicy:
		return mendXFRMExtra(h)
	case KindFile:
		return "sed -i /^" + h.ID + "=/d " + subnetFile
	}
	return ""
}

// mendWrong returns the command that makes an entry right.
func mendWrong(w, h Fact, c []Change) string {
	switch w.Kind {
	case KindLink:
		return mendLink(w, c)
	case KindSysctl:
		return setSysctl(w)
	case KindWireGuard:
		return mendWireGuard(w, c)
	case KindXFRMPolicy:
		return mendMissing(w)
	case KindFile:
		return "sed -i 's|^" + w.ID + "=.*|" + w.String() + "|' " + subnetFile
	case KindNeighbour, KindRoute:
		if w.Optional { // the kernel asks again
			return "ip neigh del " + w.value("ip") + " dev " + w.Dev
		}
		return mendMissing(w)
	case KindAddress: // the routes by a link go with its last address
		return mendMissing(w) + " && " + mendExtra(h)
	case KindFDB, KindPolicy, KindIPTables, KindIP6Tables, KindNFTables:
		if add := mendMissing(w); add != "" {
			return mendExtra(h) + " && " + add
		}
	}
	return ""
}

// mendLink sets what can be set. What a VXLAN device is made with cannot be
// changed, so that it is made anew; its agent does the rest.
func mendLink(w Fact, c []Change) string {
	var set []string
	for _, x := range c {
		switch x.Name {
		case "state":
			set = append(set, "up")
		case "mtu", "address", "master":
			set = append(set, x.Name+" "+x.Want)
		case "carrier":
			if len(c) == 1 {
				return "" // what is down is the other end
			}
		case "id", "group", "local", "dev", "dstport", "learning", "gbp":
			return "ip link del " + w.ID + " && " + addLink(w)
		default:
			return ""
		}
	}
	if len(set) == 0 {
		return ""
	}
	return "ip link set " + w.ID + " " + strings.Join(set, " ")
}

// addLink makes a link and brings it up.
func addLink(w Fact) string {
	made := w.without("state").without("carrier")
	return "ip link add " + made.String() + " && ip link set " + w.ID + " up"
}

func ipRule(f Fact) string {
	if strings.HasPrefix(f.ID, "inet6 ") {
		return "ip -6 rule"
	}
	return "ip rule"
}

func setSysctl(w Fact) string { return "sysctl -w " + w.ID + "=" + w.value("value") }
